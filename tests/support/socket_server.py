"""The real HTTP server on a socket, in a thread of this process, with a backend that draws nothing."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.http.app import create_app
from bitvar.serving.http.server import open_socket, uvicorn_config
from bitvar.serving.http.settings import ServerSettings
from tests.support.serving import ScriptedBackend


@dataclass
class SocketServer:
    """A running server.

    Attributes:
        port: Its port on 127.0.0.1.
        engine: Its engine, which runs in another thread.
        backend: Its backend.
    """

    port: int
    engine: Engine
    backend: ScriptedBackend

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def exchange(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Send bytes and read until the server closes the connection, or says nothing for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            answer = bytearray()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                connection.sendall(data)
                while piece := connection.recv(1 << 16):
                    answer += piece
            return bytes(answer)


@contextlib.contextmanager
def socket_server(
    settings: ServerSettings | None = None,
    *,
    backend: ScriptedBackend | None = None,
    limits: EngineLimits | None = None,
) -> Iterator[SocketServer]:
    """Run a server as `bitvar serve` does, but for the worker and the signals."""
    settings, backend = settings or ServerSettings(), backend or ScriptedBackend()
    listening = open_socket("127.0.0.1", 0)
    engine = Engine(backend, limits)
    server = uvicorn.Server(uvicorn_config(create_app(engine, settings), settings))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    started = threading.Event()

    async def serve() -> None:
        await engine.start()
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.001)
        started.set()
        await serving
        await engine.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    try:
        assert started.wait(30)
        yield SocketServer(listening.getsockname()[1], engine, backend)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()
