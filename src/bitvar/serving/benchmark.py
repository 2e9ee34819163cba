"""Measure a server from outside, as its clients see it, and the engine without HTTP for comparison.

It knows HTTP and the engine's interface, and nothing of the model.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import re
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.serving.engine.backend import WorkerBackend
from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.engine.events import Finished
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.settings import WorkerSettings

_ROUTE: Final = "/v1/images/generations"
_PROMPT: Final = "a red apple"
_COLOURS: Final = ("orange", "blue", "green", "yellow", "black", "white", "brown", "pink")
_THINGS: Final = ("apple", "cat", "fish", "car", "tree", "star", "heart", "house")
"""Words of prompts that differ, since a worker remembers what it has encoded."""
_PREVIEWS: Final = 3
_READY_SECONDS: Final = 600.0
_PING_PAUSE: Final = 0.01


@dataclass
class ServedSpeed:
    """What clients of a server saw. Lists have one value a run.

    Attributes:
        front_seconds: Time from starting the command until `/livez` answered; None for a server that ran before.
        ready_seconds: Time until the model could draw; None for a server that ran before.
        first_seconds, whole_seconds: Times to the first preview and to the end of a stream, with a new prompt each.
        known_shares: Share of the time that the first preview took, with a prompt that the worker has encoded before.
        served: Images a second with several clients.
        drawn: Images a second of the engine without HTTP; empty for a server that ran before.
        idle_pings, loaded_pings: Seconds that `/livez` took.
        after_cancel: Scales that came in after a job was cancelled.
    """

    front_seconds: float | None = None
    ready_seconds: float | None = None
    first_seconds: list[float] = field(default_factory=list)
    whole_seconds: list[float] = field(default_factory=list)
    known_shares: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    idle_pings: list[float] = field(default_factory=list)
    loaded_pings: list[float] = field(default_factory=list)
    after_cancel: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, float | None]:
        """Medians, percentiles and ratios by name."""
        pairs = zip(self.first_seconds, self.whole_seconds, strict=True)
        ratios = [served / drawn for served, drawn in zip(self.served, self.drawn, strict=False)]
        return {
            "front_s": _rounded(self.front_seconds),
            "ready_s": _rounded(self.ready_seconds),
            "first_preview_s": _rounded(statistics.median(self.first_seconds)),
            "whole_s": _rounded(statistics.median(self.whole_seconds)),
            "first_preview_share": _rounded(statistics.median(first / whole for first, whole in pairs)),
            "first_preview_share_known": _rounded(statistics.median(self.known_shares)),
            "images_per_second": _rounded(statistics.median(self.served)),
            "engine_images_per_second": _rounded(statistics.median(self.drawn)) if self.drawn else None,
            "throughput_ratio": _rounded(statistics.median(ratios)) if ratios else None,
            **_milliseconds("livez_idle", self.idle_pings),
            **_milliseconds("livez_load", self.loaded_pings),
            "scales_after_cancel_mean": _rounded(statistics.mean(self.after_cancel)),
            "scales_after_cancel_max": max(self.after_cancel),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _milliseconds(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1000 * value for value in seconds)
    return {f"{name}_p{share}_ms": round(ordered[(len(ordered) - 1) * share // 100], 2) for share in (50, 99)}


def measure_server(url: str, *, clients: int, images: int, runs: int) -> ServedSpeed:
    """Measure a running server that is otherwise idle.

    Args:
        url: Its address.
        clients: Number of clients at a time.
        images: Number of images of a run of the throughput.
        runs: Number of runs of everything, after a warm-up.
    """
    measured = ServedSpeed()
    wait_until_ready(url)
    stream(url, _PROMPT)
    for prompt in itertools.islice(_new_prompts(), runs):
        first, whole = stream(url, prompt)
        measured.first_seconds.append(first)
        measured.whole_seconds.append(whole)
    for _ in range(runs):
        first, whole = stream(url, _PROMPT)
        measured.known_shares.append(first / whole)
    measured.idle_pings = [ping(url) for _ in range(100)]
    for _ in range(runs):
        measured.after_cancel.append(scales_after_cancel(url))
    measure_throughput(url, measured, clients=clients, images=images)
    measured.loaded_pings = pings_under_load(url, clients=clients, images=images * runs)
    return measured


def measure_throughput(
    url: str, measured: ServedSpeed, *, clients: int, images: int, alone: Callable[[], float] | None = None
) -> None:
    """Add a run of the throughput.

    Args:
        url: Address of the server.
        measured: Where the run is added.
        clients: Number of clients at a time.
        images: Number of images.
        alone: Measures the images a second of the engine without HTTP.
    """
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda seed: generate(url, seed), range(images)))
    measured.served.append(images / (time.perf_counter() - began))
    if alone is not None:
        measured.drawn.append(alone())


def generate(url: str, seed: int) -> None:
    """Ask for an image, again while the queue is full.

    Raises:
        UsageError: The server refuses.
    """
    body = json.dumps({"prompt": _PROMPT, "seed": seed}).encode()
    while True:
        with contextlib.closing(_connect(url)) as connection:
            connection.request("POST", _ROUTE, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        if answer.status == 200:
            return
        if answer.status != 429:
            raise UsageError(f"Can't measure {url}.", f"it answers {answer.status} to a request for an image")
        time.sleep(float(answer.headers["retry-after"]))


def _new_prompts() -> Iterator[str]:
    for number in itertools.count():
        colour, thing = _COLOURS[number % len(_COLOURS)], _THINGS[number // len(_COLOURS) % len(_THINGS)]
        yield f"a {colour} {thing}" if number < len(_COLOURS) * len(_THINGS) else f"{number} {thing}s"


def stream(url: str, prompt: str) -> tuple[float, float]:
    """Ask for a streamed image. Returns the seconds to its first preview and to its end."""
    began, first = time.perf_counter(), None
    with contextlib.closing(_connect(url)) as connection:
        for line in _open_stream(connection, url, prompt):
            if first is None and line.startswith(b"event:"):
                first = time.perf_counter() - began
    whole = time.perf_counter() - began
    return first or whole, whole


def scales_after_cancel(url: str) -> int:
    """Leave a stream at its first preview. Returns the number of scales that came in after the server noticed."""
    before = read_counts(url)
    with contextlib.closing(_connect(url)) as connection:
        lines = _open_stream(connection, url, _PROMPT)
        while not next(lines).startswith(b"event:"):
            pass
    while (after := read_counts(url))["bitvar_jobs_running"] or after["bitvar_jobs_waiting"]:
        time.sleep(_PING_PAUSE)
    return round(after["bitvar_scales_after_cancel_total"] - before["bitvar_scales_after_cancel_total"])


def pings_under_load(url: str, *, clients: int, images: int) -> list[float]:
    """Time `/livez` while clients ask for images."""
    pings: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            pings.append(ping(url))
            time.sleep(_PING_PAUSE)

    with ThreadPoolExecutor(clients + 1) as pool:
        watching = pool.submit(watch)
        try:
            list(pool.map(lambda seed: generate(url, seed), range(images)))
        finally:
            done.set()
        watching.result()
    return pings


def ping(url: str) -> float:
    """Seconds that `/livez` takes, with a new connection."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{url}/livez", timeout=60) as answer:
        answer.read()
    return time.perf_counter() - began


def wait_until_ready(url: str) -> None:
    """Wait until the model of a server can draw.

    Raises:
        UsageError: Nobody answers, or it takes too long.
    """
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=60):
                return
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.05)
        except OSError as error:
            raise UsageError(f"Can't reach {url}.", str(error), "start it with `bitvar serve`") from None
    raise UsageError(f"{url} isn't ready after {_READY_SECONDS:g} seconds.", None, "read its log")


def read_counts(url: str) -> dict[str, float]:
    """Read the samples of `/metrics` that have no labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.split(" ") for line in lines if re.fullmatch(r"\w+ [0-9.e+-]+", line)]
    return {name: float(value) for name, value in pairs}


@contextlib.contextmanager
def started_server(command: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Run a command that serves. Yields its URL, and the seconds until it answered and until it was ready.

    Args:
        command: Command line that writes its URL first, on standard error.

    Raises:
        UsageError: It ends at once.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    reading: threading.Thread | None = None
    try:
        found = None
        while found is None and (line := process.stderr.readline()):
            found = re.match(r"(http://\S+)", line)
        if found is None:
            raise UsageError("The server ended at once.", None, f"run `{' '.join(command[1:])}` to see why")
        reading = threading.Thread(target=process.stderr.read, daemon=True)
        reading.start()
        ping(found[1])
        answered = time.perf_counter() - began
        wait_until_ready(found[1])
        yield found[1], answered, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
        if reading is not None:
            reading.join()
        process.stderr.close()


@contextlib.contextmanager
def engine_alone(settings: WorkerSettings, *, clients: int, images: int) -> Iterator[Callable[[], float]]:
    """Run the engine with its worker, without HTTP. Yields what measures its images a second.

    Args:
        settings: Settings of the worker.
        clients: Number of jobs at a time.
        images: Number of images to draw each time.
    """
    with asyncio.Runner() as runner:
        engine = Engine(WorkerBackend(settings), EngineLimits(max_queue=clients))

        async def start() -> None:
            await engine.start()
            while engine.state != "ready":
                if engine.failure is not None:
                    raise engine.failure
                await asyncio.sleep(0.05)

        runner.run(start())
        try:
            yield lambda: runner.run(_draw(engine, clients=clients, images=images))
        finally:
            runner.run(engine.stop())


async def _draw(engine: Engine, *, clients: int, images: int) -> float:
    """Draw images, several at a time. Returns the images a second."""
    assert engine.card is not None
    size = engine.card.sizes[0]
    seeds = iter(range(images))

    async def draw() -> None:
        for seed in seeds:
            request = GenerationRequest(prompts=(_PROMPT,), width=size.width, height=size.height, seed=(seed,))
            ticket = engine.submit(Job(id=f"bench-{seed}", request=request))
            last: Any = None
            async for event in ticket.events():
                last = event
            assert isinstance(last, Finished)

    began = time.perf_counter()
    await asyncio.gather(*(draw() for _ in range(clients)))
    return images / (time.perf_counter() - began)


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"Can't measure {url}.", "it is no http:// address", "give such as http://127.0.0.1:8000")
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=600)


def _open_stream(connection: http.client.HTTPConnection, url: str, prompt: str) -> Iterator[bytes]:
    body = {"prompt": prompt, "stream": True, "partial_images": _PREVIEWS}
    connection.request("POST", _ROUTE, json.dumps(body).encode(), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise UsageError(f"Can't measure {url}.", f"it answers {answer.status} to a request for an image")
    with answer:
        yield from answer
