"""Answers, sent in pieces so small that the buffer of a client that doesn't read stays small.

`connections` closes the connection of a client that leaves a piece unread for too long.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from starlette.responses import Response

Message: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

PIECE: Final = 1 << 16
"""Longest piece in bytes."""


class BytesAnswer(Response):
    """An answer that is known as a whole.

    Args:
        data: Body.
        media_type: Media type of the body.
        status: HTTP status.
        headers: Further headers.
    """

    def __init__(
        self,
        data: bytes,
        media_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=status)
        self._data = data
        self._headers = {"content-type": media_type, "content-length": str(len(data)), **(headers or {})}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await start(send, self.status_code, self._headers)
        data = b"" if scope.get("method") == "HEAD" else self._data
        await send_pieces(send, data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response):
    """A stream of events. It ends when its source does, when the client leaves, or when the client stops reading.

    Args:
        events: Source of encoded events; it is closed in every case, and must then give up its work.
        headers: Further headers.
    """

    def __init__(self, events: AsyncIterator[bytes], *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._events = events
        self._headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            **(headers or {}),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump(send))
        leaving = asyncio.create_task(client_left(receive))
        try:
            await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            pump.cancel()
            await asyncio.gather(pump, leaving, return_exceptions=True)
        if not pump.cancelled() and (error := pump.exception()) is not None:
            raise error

    async def _pump(self, send: Send) -> None:
        try:
            await start(send, self.status_code, self._headers)
            async for event in self._events:
                await send_pieces(send, event)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


def json_answer(
    values: Mapping[str, Any] | Sequence[Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> BytesAnswer:
    """Answer with a JSON object or list.

    Args:
        values: The object or list.
        status: HTTP status.
        headers: Further headers.
    """
    data = json.dumps(values, separators=(",", ":")).encode("ascii")
    return BytesAnswer(data, "application/json", status=status, headers=headers)


async def start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Send status and headers."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def send_pieces(send: Send, data: bytes) -> None:
    """Send a part of a body. It waits while the connection's buffer is full."""
    for begin in range(0, len(data), PIECE):
        await send({"type": "http.response.body", "body": data[begin : begin + PIECE], "more_body": True})


async def client_left(receive: Receive) -> None:
    """Wait until the client has closed the connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
