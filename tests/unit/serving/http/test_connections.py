"""Limits of a connection, on a clock of the test's."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bitvar.serving.http.connections import ConnectionLimits, TimedProtocol

LIMITS = ConnectionLimits(header_seconds=20, read_seconds=30, connections=3)


@dataclass
class Timer:
    due: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop(asyncio.AbstractEventLoop):
    """Runs timers when a test says that time passes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:  # type: ignore[override]
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.due <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.due > self.now and not timer.cancelled]
        for timer in due:
            timer.call()


class Transport(asyncio.Transport):
    """Remembers how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.end = ""

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"


class Inner:
    """A protocol as uvicorn's: a request's headers are complete with an empty line, its answer when a test says so."""

    def __init__(self, connections: set[Any]) -> None:
        self.connections = connections
        self.cycle: Any = None
        self.calls: list[str] = []
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self.connections.add(self)
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received:
            self._received = self._received.partition(b"\r\n\r\n")[2]
            self.cycle = SimpleNamespace(response_complete=False)

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.calls.append("lost")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


@dataclass
class Connection:
    loop: Loop = field(default_factory=Loop)
    others: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.inner, self.transport = Inner(self.others), Transport()
        self.protocol = TimedProtocol(self.inner, self.loop, LIMITS)
        self.protocol.connection_made(self.transport)


def test_a_client_that_sends_nothing_is_dropped() -> None:
    one = Connection()
    one.loop.pass_time(19.9)
    assert one.transport.end == ""
    one.loop.pass_time(0.1)
    assert one.transport.end == "closed"


def test_headers_that_drip_do_not_hold_a_connection() -> None:
    one = Connection()
    for byte in b"GET / HTTP/1.1\r\nHost: a":
        one.protocol.data_received(bytes([byte]))
        one.loop.pass_time(1)
    assert one.transport.end == "closed"


def test_an_answer_may_take_longer_than_headers() -> None:
    one = Connection()
    one.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    one.loop.pass_time(1000)
    assert one.transport.end == ""
    one.protocol.data_received(b"body of the request")
    one.loop.pass_time(1000)
    assert one.transport.end == ""


def test_a_second_request_has_its_own_time_for_headers() -> None:
    one = Connection()
    one.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    one.inner.cycle.response_complete = True
    one.loop.pass_time(1000)  # uvicorn closes unused connections itself
    one.protocol.data_received(b"GET / HT")
    one.loop.pass_time(19)
    assert one.transport.end == ""
    one.protocol.data_received(b"TP")
    one.loop.pass_time(1)
    assert one.transport.end == "closed"


def test_a_client_that_does_not_read_is_aborted() -> None:
    one = Connection()
    one.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    one.protocol.pause_writing()
    one.loop.pass_time(29)
    assert one.transport.end == ""
    one.loop.pass_time(1)
    assert one.transport.end == "aborted"


def test_a_slow_reader_that_reads_is_kept() -> None:
    one = Connection()
    one.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(10):
        one.protocol.pause_writing()
        one.loop.pass_time(29)
        one.protocol.resume_writing()
    one.loop.pass_time(1000)
    assert one.transport.end == ""
    assert one.inner.calls == ["made", *["pause", "resume"] * 10]


@pytest.mark.parametrize("paused", [False, True])
def test_nothing_happens_after_a_connection_is_lost(paused: bool) -> None:
    one = Connection()
    if paused:
        one.protocol.pause_writing()
    one.protocol.eof_received()
    one.protocol.connection_lost(None)
    one.loop.pass_time(1000)
    assert one.transport.end == ""
    assert one.inner.calls[-2:] == ["eof", "lost"]
    assert not one.others


def test_too_many_connections_are_closed_at_once_and_others_kept() -> None:
    others: set[Any] = set()
    kept = [Connection(others=others) for _ in range(LIMITS.connections)]
    refused = Connection(others=others)
    assert [one.transport.end for one in kept] == [""] * 3
    assert refused.transport.end == "closed"
    refused.protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
    refused.protocol.eof_received()
    refused.protocol.connection_lost(None)
    assert refused.inner.calls == [] and refused.inner.cycle is None
    kept[0].protocol.connection_lost(None)
    assert Connection(others=others).transport.end == ""


def test_a_served_connection_is_limited_in_a_running_server() -> None:
    """Against uvicorn itself: a client that sends half its headers is dropped, and its neighbour is answered."""
    import uvicorn

    from bitvar.serving.http.connections import timed_protocol
    from bitvar.serving.http.sending import json_answer

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await json_answer({"status": "alive"})(scope, receive, send)

    async def run() -> None:
        limits = ConnectionLimits(header_seconds=0.2, read_seconds=5, connections=10)
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            port=0,
            log_config=None,
            http=timed_protocol(limits),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost:")
        other_reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert (await other_reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        other.close()
        server.should_exit = True
        await serving

    asyncio.run(run())


def test_who_is_told_the_address_can_connect_at_once() -> None:
    from bitvar.serving.http.server import open_socket, url_of

    with open_socket("127.0.0.1", 0) as listening:
        port = int(url_of(listening).rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
