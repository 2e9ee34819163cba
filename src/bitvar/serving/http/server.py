"""The server process: starts the worker, listens, and ends in order: no new jobs, the accepted ones done, then exit."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from typing import Final

import uvicorn

from bitvar.errors import UsageError
from bitvar.serving.engine.backend import Backend
from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.http.app import create_app
from bitvar.serving.http.connections import ConnectionLimits, timed_protocol
from bitvar.serving.http.guard import Guard
from bitvar.serving.http.settings import ServerSettings

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_BACKLOG: Final = 2048


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        UsageError: The address is taken, or isn't this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)  # now, so that who is told the address can connect at once
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"Can't listen on {host}:{port}.", why, "choose another --port or --host") from None
    listening.set_inheritable(False)
    return listening


def url_of(listening: socket.socket) -> str:
    """URL at which this machine reaches a server that listens on a socket."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    backend: Backend,
    settings: ServerSettings,
    limits: EngineLimits,
    *,
    listening: socket.socket,
    on_ready: Callable[[Engine], None] = lambda engine: None,
) -> None:
    """Serve until a signal asks to stop.

    Args:
        backend: Where jobs are drawn.
        settings: Names, keys and limits of the HTTP side.
        limits: Bounds of the engine.
        listening: Socket to accept connections on.
        on_ready: Called once the model can draw.

    Raises:
        UsageError, WeightsError: The model can't be loaded.
    """
    asyncio.run(_serve(backend, settings, limits, listening, on_ready))


def uvicorn_config(app: Guard, settings: ServerSettings) -> uvicorn.Config:
    """Configure uvicorn for an application of `create_app`.

    Args:
        app: The application.
        settings: Limits of a connection.
    """
    connection = ConnectionLimits(settings.body_timeout, settings.send_timeout, settings.max_connections)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=timed_protocol(connection),  # type: ignore[arg-type]
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # whoever connects could claim another address and scheme
        ws="none",
        timeout_graceful_shutdown=5,
    )


async def _serve(
    backend: Backend,
    settings: ServerSettings,
    limits: EngineLimits,
    listening: socket.socket,
    on_ready: Callable[[Engine], None],
) -> None:
    engine = Engine(backend, limits)
    await engine.start()
    config = uvicorn_config(create_app(engine, settings), settings)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]  # ours drain first
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    answering = asyncio.create_task(server.serve(sockets=[listening]))
    waiting = asyncio.create_task(stopping.wait())
    failing = asyncio.create_task(engine.failed())
    telling = asyncio.create_task(_tell_when_ready(engine, on_ready))
    try:
        await asyncio.wait({answering, waiting, failing}, return_when=asyncio.FIRST_COMPLETED)
        if not failing.done():
            await _drain(engine, stopping)
    finally:
        await engine.stop()
        server.should_exit = True
        for task in (waiting, telling):
            task.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    if failing.done():
        raise failing.result()
    failing.cancel()


async def _drain(engine: Engine, stopping: asyncio.Event) -> None:
    """Finish what was accepted; a second signal ends that too."""
    stopping.clear()
    draining = asyncio.create_task(engine.drain())
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, again):
        task.cancel()
    await asyncio.sleep(0.1)  # lets the last answers leave


async def _tell_when_ready(engine: Engine, on_ready: Callable[[Engine], None]) -> None:
    while engine.state != "ready":
        await asyncio.sleep(0.05)
    on_ready(engine)
