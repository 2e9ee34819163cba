"""The worker process as the front process sees it, with a small program in the worker's place."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.serving.engine import backend as backend_module
from bitvar.serving.engine.backend import WorkerBackend
from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.engine.events import Failed, Finished
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.settings import WorkerSettings
from tests.support.serving import CARD

PROGRAM = """
import json, os, socket, sys, time
from bitvar.serving.engine.events import Cancelled, Finished, Started, Usage
from bitvar.serving.engine.wire import Frame, event_frame, pack, parse_job, read_frame

end = socket.socket(fileno=os.dup(0))
file = end.makefile("rb")
send = lambda frame: end.sendall(pack(frame))
start = os.path.getsize(sys.argv[1])  # how often it was started before
open(sys.argv[1], "a").write("x")
assert read_frame(file.read).kind == "settings"
if start == 0 and sys.argv[3] == "die-early":
    os._exit(9)
if sys.argv[3] == "slow":
    time.sleep(600)
if sys.argv[3] == "fatal":
    send(Frame("fatal", {"kind": "UsageError", "message": "There is no model here.\\n  do: look elsewhere"}))
    sys.exit()
send(Frame("card", json.loads(sys.argv[2])))
while (frame := read_frame(file.read)) is not None:
    if frame.kind == "cancel":
        send(event_frame(frame.values["job"], Cancelled(0)))
        continue
    job = parse_job(frame).id
    if job == "hang":
        send(event_frame(job, Started()))
        time.sleep(600)
    if start == 0 and job == "kill":
        send(event_frame(job, Started()))
        os._exit(9)
    if start == 0 and job == "damage":
        send(event_frame(job, Started()))
        end.sendall(pack(Frame("event", {"job": job, "event": "Finished", "fields": {}})))
    if start == 0 and job == "noise":
        end.sendall(b"\\xff" * 64)
    if start == 0 and job == "last":
        continue  # it dies with this one waiting
    send(event_frame(job, Started()))
    send(event_frame(job, Finished(Usage(1, 2), (), 0.0, 0.1)))
"""

Test = Callable[[Engine, WorkerBackend], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test with an engine whose worker is the program above."""
    (tmp_path / "starts").write_text("")
    (tmp_path / "worker.py").write_text(PROGRAM)
    create = asyncio.create_subprocess_exec
    monkeypatch.setattr(backend_module, "_FIRST_DELAY", 0.01)

    def run(test: Test, kind: str = "", **limits: Any) -> None:
        attempts: list[int] = []

        async def start(*command: str, stdin: int) -> Any:
            assert command[1:] == ("-m", "bitvar.serving.engine.worker")
            if kind == "no-memory" and not attempts:
                attempts.append(1)
                raise BlockingIOError("no more processes")
            arguments = (str(tmp_path / "worker.py"), str(tmp_path / "starts"), CARD.model_dump_json(), kind)
            return await create(sys.executable, *arguments, stdin=stdin)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

        async def whole() -> None:
            backend = WorkerBackend(WorkerSettings())
            engine = Engine(backend, EngineLimits(**limits))
            await engine.start()
            try:
                await asyncio.wait_for(test(engine, backend), 60)
            finally:
                await engine.stop()
            assert backend.process_id is None or not Path(f"/proc/{backend.process_id}").exists()

        asyncio.run(whole())

    return run


def job(name: str) -> Job:
    return Job(id=name, request=GenerationRequest(prompts=("an apple",), width=64, height=64, seed=1))


async def ready(engine: Engine) -> None:
    while engine.state != "ready":
        await asyncio.sleep(0.01)


async def last(engine: Engine, name: str) -> Any:
    return [event async for event in engine.submit(job(name)).events()][-1]


def test_jobs_are_drawn_by_the_worker(run: Callable[..., None]) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        assert engine.state == "loading" and engine.card is None
        await ready(engine)
        assert engine.card == CARD
        assert isinstance(await last(engine, "plain"), Finished)

    run(test)


@pytest.mark.parametrize("kind", ["kill", "damage"])
def test_a_worker_that_dies_or_talks_nonsense_is_replaced(run: Callable[..., None], kind: str) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        await ready(engine)
        waiting = engine.submit(job("last"))
        failed = await last(engine, kind)
        assert isinstance(failed, Failed) and failed.code == "worker_died"
        assert isinstance([event async for event in waiting.events()][-1], Finished), "it was drawn by the next one"
        assert backend.starts == 2 and engine.state == "ready"

    run(test)


def test_bytes_that_are_no_frames_do_not_take_memory_but_the_worker(run: Callable[..., None]) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        await ready(engine)
        assert isinstance(await last(engine, "noise"), Finished)
        assert backend.starts == 2

    run(test)


@pytest.mark.parametrize("kind", ["die-early", "no-memory"])
def test_a_worker_that_does_not_become_ready_is_started_again(run: Callable[..., None], kind: str) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        await ready(engine)
        assert backend.starts == 2
        assert isinstance(await last(engine, "plain"), Finished)

    run(test, kind)


def test_a_worker_that_hangs_is_killed_and_replaced(run: Callable[..., None]) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        await ready(engine)
        failed = await last(engine, "hang")
        assert isinstance(failed, Failed) and failed.code == "timeout"
        while backend.starts < 2:
            await asyncio.sleep(0.01)
        await ready(engine)
        assert isinstance(await last(engine, "plain"), Finished)

    run(test, request_timeout=0.3, stall_timeout=0.2)


def test_a_model_that_is_not_there_ends_the_server_with_its_message(run: Callable[..., None]) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        error = await engine.failed()
        assert isinstance(error, UsageError)
        assert str(error) == "There is no model here.\n  do: look elsewhere"
        assert engine.state == "failed" and backend.starts == 1

    run(test, "fatal")


def test_a_worker_ends_with_the_front_process(run: Callable[..., None]) -> None:
    async def test(engine: Engine, backend: WorkerBackend) -> None:
        await ready(engine)
        engine.submit(job("last"))

    run(test)  # it checks that the process is gone


def test_a_worker_that_still_loads_is_not_waited_for(run: Callable[..., None]) -> None:
    began: list[float] = []

    async def test(engine: Engine, backend: WorkerBackend) -> None:
        while backend.process_id is None:
            await asyncio.sleep(0.01)
        assert engine.state == "loading"
        began.append(time.monotonic())

    run(test, "slow")
    assert time.monotonic() - began[0] < backend_module._STOP_SECONDS / 2
