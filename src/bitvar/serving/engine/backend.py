"""Where jobs are drawn: the interface that the engine needs, and the worker process on this machine."""

import asyncio
import contextlib
import logging
import socket
import sys
import time
from typing import Any, Final, Literal, Protocol, runtime_checkable

from bitvar.errors import UsageError, WeightsError, explain
from bitvar.serving.engine.events import Event
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.engine.wire import LENGTHS, Frame, job_frame, lengths, pack, parse, parse_event

_LOG: Final = logging.getLogger(__name__)

State = Literal["loading", "ready", "restarting", "failed", "stopped"]

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 30.0
"""Seconds before a worker that died is started again, doubling while it dies before it is ready."""

_MOST_FAILURES: Final = 3
"""Number of workers that may die before any was ready."""

_STOP_SECONDS: Final = 5.0


@runtime_checkable
class BackendListener(Protocol):
    """Who is told what a backend does. All methods are called in the event loop's thread."""

    def on_event(self, job_id: str, event: Event) -> None:
        """A job came further."""
        ...

    def on_ready(self) -> None:
        """The backend can draw: for the first time, or again."""
        ...

    def on_lost(self) -> None:
        """The backend died with every job that it had."""
        ...

    def on_failed(self, error: Exception) -> None:
        """The backend can't draw and won't recover, such as for a model that is not there."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Draws jobs. It may die and come back; a job that is submitted while it is away is lost."""

    @property
    def card(self) -> ModelCard | None:
        """The model; None until it is loaded for the first time."""
        ...

    @property
    def state(self) -> State: ...

    async def start(self, listener: BackendListener) -> None:
        """Begin loading the model, without waiting for it."""
        ...

    def submit(self, job: Job) -> None:
        """Draw a job. Events follow."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job. `Cancelled` follows, unless the job ends otherwise first."""
        ...

    async def restart(self) -> None:
        """Give up what is being drawn and begin anew, as when a job doesn't obey."""
        ...

    async def stop(self) -> None:
        """End at once."""
        ...


class WorkerBackend:
    """One worker process on this machine, which is started again when it dies.

    Args:
        settings: What the worker loads.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._card: ModelCard | None = None
        self._state: State = "stopped"
        self._listener: BackendListener | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._delay = _FIRST_DELAY
        self.starts = 0

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def state(self) -> State:
        return self._state

    @property
    def process_id(self) -> int | None:
        """Process id of the worker; None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self, listener: BackendListener) -> None:
        self._listener = listener
        self._state = "loading"
        self._supervision = asyncio.create_task(self._supervise())

    def submit(self, job: Job) -> None:
        self._send(job_frame(job))

    def cancel(self, job_id: str) -> None:
        self._send(Frame("cancel", {"job": job_id}))

    async def restart(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        if self._state in ("loading", "restarting"):
            await self.restart()  # it reads nothing while it loads, so it would learn of the end only afterwards
        self._state = "stopped"
        if self._supervision is not None:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        await self._end_process()

    def _send(self, frame: Frame) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):  # it has just died; its jobs are reported as lost
                self._writer.write(pack(frame))

    async def _supervise(self) -> None:
        assert self._listener is not None
        failures = 0
        while True:
            was_ready = await self._run_once()
            if self._state == "failed":
                return
            failures = 0 if was_ready else failures + 1
            if self._card is None and failures == _MOST_FAILURES:
                self._state = "failed"
                self._listener.on_failed(RuntimeError(_never_ready(failures)))
                return
            self._state = "restarting" if self._card else "loading"
            self._listener.on_lost()
            self._delay = _FIRST_DELAY if was_ready else min(2 * self._delay, _LONGEST_DELAY)
            await asyncio.sleep(self._delay)

    async def _run_once(self) -> bool:
        """Start a worker and read what it writes until it ends. Returns whether it became ready."""
        ours, theirs = socket.socketpair()
        self.starts += 1
        began = time.monotonic()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bitvar.serving.engine.worker", stdin=theirs.fileno()
            )
        except OSError as error:
            _LOG.error("the worker can't be started: %s", error.strerror or error)
            ours.close()
            return False
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._send(Frame("settings", self._settings.model_dump(mode="json")))
        is_ready = False
        try:
            while (frame := await _read_frame(reader)) is not None:
                is_ready = self._take(frame) or is_ready
        except (OSError, ValueError) as error:
            _LOG.error("the worker's messages are damaged: %s", error)
        await self._end_process()
        code = self._process.returncode
        _LOG.warning("the worker ended with code %s after %.1f s", code, time.monotonic() - began)
        return is_ready

    def _take(self, frame: Frame) -> bool:
        """Pass on a frame. Returns whether it says that the worker is ready."""
        assert self._listener is not None
        if frame.kind == "event":
            self._listener.on_event(*parse_event(frame))
            return False
        if frame.kind == "fatal":
            self._state = "failed"
            kind = UsageError if frame.values.get("kind") == "UsageError" else WeightsError
            self._listener.on_failed(_plain_error(kind, str(frame.values.get("message", ""))))
            return False
        if frame.kind != "card":
            raise ValueError(f"there is no kind of frame {frame.kind!r}")
        self._card = ModelCard.model_validate(frame.values)
        self._state = "ready"
        self._listener.on_ready()
        return True

    async def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _never_ready(failures: int) -> str:
    why = f"it ended {failures} times before it was ready; its messages are above"
    return explain("The worker can't load the model.", why, "try another model or a smaller --dtype")


def _plain_error(kind: type[Any], message: str) -> Exception:
    """Make an error anew whose message has its lines already."""
    error = kind(message.splitlines()[0] if message else "")
    error.args = (message,)
    return error


async def _read_frame(reader: asyncio.StreamReader) -> Frame | None:
    try:
        header_length, data_length = lengths(await reader.readexactly(LENGTHS.size))
        header = await reader.readexactly(header_length)
        return parse(header, await reader.readexactly(data_length))
    except asyncio.IncompleteReadError:
        return None
