"""Servers to test against: the application in this process with a backend that draws nothing, and the real command."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bitvar.sampling.params import SamplingParams
from bitvar.serving.engine.backend import BackendListener, State
from bitvar.serving.engine.costs import preview_scales
from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Finished,
    ImageDone,
    Preview,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard, NativeSize
from bitvar.serving.http.app import create_app
from bitvar.serving.http.guard import Guard
from bitvar.serving.http.settings import ServerSettings

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))

CARD = ModelCard(
    name="icons",
    digest="icons@0123456789ab",
    created=1_700_000_000,
    sizes=(NativeSize(width=64, height=64, grids=GRIDS, image_bytes=1 << 20),),
    defaults=SamplingParams(guidance_scale=1.0, temperature=0.25, top_k=0, top_p=0.0),
    max_text_tokens=64,
    adapters=("pixel", "ink"),
    memory_budget=1 << 30,
)


class ScriptedBackend:
    """A backend that draws nothing, in this process: one scale of one job after another.

    Args:
        card: Model that it claims to have.
        before_scale: Awaited before every scale; a test can hold the drawing there.
    """

    def __init__(self, card: ModelCard | None = CARD, before_scale: Callable[[Job, int], Any] | None = None) -> None:
        self._card = card
        self._state: State = "stopped"
        self._before_scale = before_scale
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._cancelled: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.listener: BackendListener | None = None
        self.drawn: list[tuple[str, int]] = []
        """Id of the job and index of the scale of everything that was drawn."""
        self.submitted: list[Job] = []
        self.restarts = 0

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def state(self) -> State:
        return self._state

    async def start(self, listener: BackendListener) -> None:
        self.listener = listener
        self._state = "loading" if self._card is None else "ready"
        self._task = asyncio.create_task(self._draw())
        if self._card is not None:
            listener.on_ready()

    def submit(self, job: Job) -> None:
        self.submitted.append(job)
        self._jobs.put_nowait(job)

    def cancel(self, job_id: str) -> None:
        self._cancelled.add(job_id)

    async def restart(self) -> None:
        self.restarts += 1

    async def stop(self) -> None:
        self._state = "stopped"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def lose(self) -> None:
        """Die with every job."""
        assert self.listener is not None and self._task is not None
        self._task.cancel()
        self._state = "restarting"
        self._jobs = asyncio.Queue()
        self.listener.on_lost()

    def come_back(self) -> None:
        """Be ready again."""
        assert self.listener is not None
        self._state = "ready"
        self._task = asyncio.create_task(self._draw())
        self.listener.on_ready()

    async def _draw(self) -> None:
        while True:
            job = await self._jobs.get()
            for event in [event async for event in self._events(job)]:
                self._tell(job, event)

    def _tell(self, job: Job, event: Event) -> None:
        assert self.listener is not None
        self.listener.on_event(job.id, event)

    async def _events(self, job: Job) -> AsyncIterator[Event]:
        """Draw a job, telling of scales at once; what is yielded is its last event."""
        lengths = [rows * columns for rows, columns in GRIDS]
        shown = preview_scales(lengths, job.previews.count)
        scales = 0
        began = time.monotonic()
        for image, seed in enumerate(job.request.seeds()):
            for scale, grid in enumerate(GRIDS):
                if job.id in self._cancelled:
                    yield Cancelled(scales)
                    return
                if self._before_scale is not None:
                    await self._before_scale(job, scale)
                await asyncio.sleep(0)
                if not scales:
                    self._tell(job, Started())
                self.drawn.append((job.id, scale))
                scales += 1
                done = ScaleDone(image, scale, len(GRIDS), grid, sum(lengths[: scale + 1]), sum(lengths))
                self._tell(job, done)
                if scale in shown:
                    self._tell(job, Preview(shown.index(scale), done, b"preview %d" % scale, job.output.format))
            native = job.request.width or 64, job.request.height or 64
            size = job.output.size or native
            data = b"image of %d" % seed
            self._tell(job, ImageDone(image, data, job.output.format, *size, *native, seed, {"seed": seed}))
        read = 0 if job.request.edit is None else sum(lengths)
        usage = Usage(5, sum(lengths) * job.request.num_images, read)
        yield Finished(usage, (), 0.0, time.monotonic() - began)


@dataclass
class App:
    """The application with its parts.

    Attributes:
        client: Client of the application.
        engine: Its engine.
        backend: Its backend.
        app: The ASGI application.
    """

    client: httpx.AsyncClient
    engine: Engine
    backend: ScriptedBackend
    app: Guard = field(repr=False)


@contextlib.asynccontextmanager
async def running_app(
    backend: ScriptedBackend | None = None,
    *,
    settings: ServerSettings | None = None,
    limits: EngineLimits | None = None,
) -> AsyncIterator[App]:
    """Run the application in this process, without a socket. The client gets whole answers only."""
    backend = backend or ScriptedBackend()
    engine = Engine(backend, limits)
    await engine.start()
    app = create_app(engine, settings or ServerSettings())
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        try:
            yield App(client, engine, backend, app)
        finally:
            await engine.stop()


@dataclass
class ServerProcess:
    """A server started by the command line.

    Attributes:
        url: Its address, without a slash at the end.
        process: The front process.
        log: Lines of its standard error so far.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[str]

    def state(self) -> str:
        """What `/readyz` says; "gone" where nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return json.load(answer)["status"]
        except urllib.error.HTTPError as error:
            return json.load(error)["status"]
        except OSError:
            return "gone"

    def wait_until(self, state: str, seconds: float = 120) -> None:
        """Wait until `/readyz` says a state."""
        end = time.monotonic() + seconds
        while self.state() != state:
            assert time.monotonic() < end, f"the server is not {state} after {seconds} s: {''.join(self.log)}"
            assert self.process.poll() is None or state == "gone", f"the server ended: {''.join(self.log)}"
            time.sleep(0.05)


@contextlib.contextmanager
def running_server(*options: str, wait: bool = True, verb: Sequence[str] = ("serve",)) -> Iterator[ServerProcess]:
    """Run `bitvar serve` on a free port, with the embedded model on one thread unless the options say otherwise."""
    threads = () if "--threads" in options else ("--threads", "1")
    command = [sys.executable, "-m", "bitvar", *verb, "--port", "0", *threads, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log: list[str] = []
    assert process.stderr is not None
    reading = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    try:
        url = None
        while url is None and (line := process.stderr.readline()):
            log.append(line)
            found = re.match(r"(http://\S+)", line)
            url = found[1] if found else None
        assert url is not None, f"the server ended at once: {''.join(log)}"
        reading.start()
        server = ServerProcess(url, process, log)
        if wait:
            server.wait_until("ready")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reading.ident is not None:
            reading.join(30)  # it ends with the last process that writes there
        if not reading.is_alive():
            process.stderr.close()
