"""Limits of a connection, around uvicorn's own protocol: how many there are, and how long a client may stall.

Uvicorn waits for the headers of a request, and for a client to read its answer, as long as the client likes; enough
such clients would take every connection. Of uvicorn's two protocols this is the one on h11, also where httptools is
installed: it bounds the headers of a request to some 64 KiB, keeps trailers apart from headers, and reads the body of a
request that offers an upgrade.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_UNREAD: Final = 1 << 26
"""Most bytes that a client may go on sending once its request is answered. They are thrown away: were the connection
closed at once, the client would see that in place of the answer."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may take.

    Attributes:
        header_seconds: Time for the headers of a request; also how long an unused connection is kept.
        read_seconds: Time that a client may leave an answer unread.
        connections: Most connections at a time; further ones are closed at once.
    """

    header_seconds: float
    read_seconds: float
    connections: int


def timed_protocol(limits: ConnectionLimits) -> Callable[..., "TimedProtocol"]:
    """Return a factory of protocols for `uvicorn.Config(http=...)`."""

    def make(*args: Any, **options: Any) -> TimedProtocol:
        return TimedProtocol(H11Protocol(*args, **options), asyncio.get_event_loop(), limits)

    return make


class TimedProtocol(asyncio.Protocol):
    """One connection, passed on to uvicorn's protocol, and closed if its client stalls.

    Args:
        inner: Uvicorn's protocol.
        loop: Event loop.
        limits: What the connection may take.
    """

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop, limits: ConnectionLimits) -> None:
        self._inner = inner
        self._loop = loop
        self._limits = limits
        self._transport: Any = None
        self._headers: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._unread = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if len(self._inner.connections) >= self._limits.connections:
            self._is_refused = True
            transport.close()
            return
        self._inner.connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._inner.data_received(data)
        if self._is_answering():
            self._unread = 0
            self._stop_waiting()
            return
        self._unread += len(data)
        if self._unread > MAX_UNREAD:
            self._transport.close()
        elif self._headers is None:
            self._wait_for_headers()

    def eof_received(self) -> None:
        if not self._is_refused:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_reading()
        if not self._is_refused:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full, since the client doesn't read."""
        self._reading = self._loop.call_later(self._limits.read_seconds, self._transport.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._stop_reading()
        self._inner.resume_writing()

    def _is_answering(self) -> bool:
        """Whether a request's headers are complete and its answer is not."""
        cycle = self._inner.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._headers = self._loop.call_later(self._limits.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._headers is not None:
            self._headers.cancel()
            self._headers = None

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _give_up(self) -> None:
        self._headers = None
        if not self._is_answering():
            self._transport.close()
