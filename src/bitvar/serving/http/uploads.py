"""How much of uploaded files the server holds at a time, over all requests, and for how long."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.responses import Response

from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.sending import Message, Receive, Send

T = TypeVar("T")


class Uploads:
    """A bound on the bytes of files that requests hold, from their first byte until they are answered.

    Args:
        max_bytes: Most bytes that all requests may hold together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._decoding = asyncio.Semaphore(1)
        self.num_bytes = 0
        """Bytes that requests hold now."""
        self.total_bytes = 0
        """Bytes that were taken in so far."""

    def hold(self) -> "HeldBytes":
        """Begin to hold the bytes of a request."""
        return HeldBytes(self)

    async def decode(self, task: Callable[[], T]) -> T:
        """Do a task on pixels in a thread, one request at a time: a small file may unpack to hundreds of megabytes."""
        async with self._decoding:
            return await asyncio.to_thread(task)

    def take(self, count: int) -> None:
        """Count bytes of a request.

        Raises:
            ApiError: All requests together would hold too many.
        """
        if self.num_bytes + count > self._max_bytes:
            message = "The server holds as many uploaded files as it may. Try again."
            raise ApiError(429, message, code="queue_full", headers={"retry-after": "2"})
        self.num_bytes += count
        self.total_bytes += count

    def give_back(self, count: int) -> None:
        """Stop counting bytes that a request held."""
        self.num_bytes -= count


class HeldBytes:
    """The bytes that one request holds.

    Args:
        uploads: Where they count.
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._count = 0

    def add(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            ApiError: All requests together would hold too many.
        """
        self._uploads.take(count)
        self._count += count

    def release(self) -> None:
        """Hold no bytes any more."""
        self._uploads.give_back(self._count)
        self._count = 0


class HoldingAnswer(Response):
    """An answer to a request whose bytes are held until it was sent, or its client has left.

    Args:
        answer: The answer.
        held: What is released afterwards.
    """

    def __init__(self, answer: Any, held: HeldBytes) -> None:
        super().__init__(status_code=answer.status_code)
        self._answer = answer
        self._held = held

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self._held.release()
