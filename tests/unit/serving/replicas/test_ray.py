"""The backend of replicas on a real Ray, with the embedded model: cancelling, autoscaling, a rolling change."""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.engine.events import Event, Finished, ImageDone, ScaleDone
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.replicas.backend import RayBackend
from bitvar.serving.replicas.settings import ReplicaSettings
from bitvar.serving.replicas.start import ray_backend

_LOG = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray warns of itself

WORKER = WorkerSettings(threads=1)
SMALL = {"object_store_bytes": 200 << 20, "cpus": 1.0}


@pytest.fixture(autouse=True)
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def ended_ray() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    yield
    ray.shutdown()


def job(name: str, *, images: int = 1, seed: int = 7) -> Job:
    request = {"prompts": ("a red apple",), "num_images_per_prompt": images, "seed": seed}
    return Job.model_validate({"id": name, "request": request})


@asynccontextmanager
async def running(
    replicas: ReplicaSettings, worker: WorkerSettings = WORKER
) -> AsyncIterator[tuple[Engine, RayBackend]]:
    backend = ray_backend(replicas, worker)
    engine = Engine(backend, EngineLimits(max_queue=100, request_timeout=600))
    await engine.start()
    try:
        await until(lambda: engine.state == "ready")
        yield engine, backend
    finally:
        await engine.stop()


def run(body: Coroutine[Any, Any, None], seconds: float = 400) -> None:
    asyncio.run(asyncio.wait_for(body, seconds))


async def until(is_true: Callable[[], bool], seconds: float = 240) -> None:
    async with asyncio.timeout(seconds):
        while not is_true():
            await asyncio.sleep(0.02)


async def events_of(engine: Engine, one: Job) -> list[Event]:
    return [event async for event in engine.submit(one).events()]


def digests(events: list[Event]) -> list[str]:
    return [hashlib.sha256(event.data).hexdigest() for event in events if isinstance(event, ImageDone)]


async def measure() -> dict[str, int]:
    from ray import serve

    from bitvar.serving.replicas.cluster import DEPLOYMENT

    return await serve.get_deployment_handle(DEPLOYMENT, "bitvar").count_work.remote()


def test_cancelling_reaches_the_replica_at_its_next_scale() -> None:
    async def body() -> None:
        async with running(ReplicaSettings(replicas=1, **SMALL)) as (engine, _):
            ticket = engine.submit(job("long", images=10))
            seen = 0
            async for event in ticket.events():
                seen += isinstance(event, ScaleDone)
                if seen == 3 and engine.cancel("long"):
                    break
            while (found := await measure())["open_jobs"] or not found["cancelled_scales"]:
                await asyncio.sleep(0.02)
            _LOG.info(f"cancelled after {seen} scales were seen; {found['cancelled_scales']} of 40 were drawn")
            assert seen <= found["cancelled_scales"] <= seen + 3  # one in hand, and what was on its way
            assert isinstance((await events_of(engine, job("next")))[-1], Finished)

    run(body())


def test_autoscaling_keeps_to_its_limits() -> None:
    scale = ReplicaSettings(
        replicas=1,
        max_replicas=2,
        target_ongoing=1.0,
        upscale_seconds=1.0,
        downscale_seconds=3.0,
        **SMALL | {"cpus": 0.5},
    )

    async def body() -> None:
        async with running(scale) as (engine, backend):
            assert backend.num_running == 1
            seen = {1}

            async def draw(client: int) -> None:
                for number in range(1000):
                    events = await events_of(engine, job(f"c{client}-{number}"))
                    assert isinstance(events[-1], Finished), events[-1]
                    seen.add(backend.num_running)
                    if busy.is_set():
                        return

            busy = asyncio.Event()
            clients = [asyncio.create_task(draw(client)) for client in range(6)]
            await until(lambda: backend.num_running >= 2)
            for _ in range(100):  # six open jobs ask for six replicas
                await asyncio.sleep(0.1)
                seen.add(backend.num_running)
            busy.set()
            await asyncio.gather(*clients)
            await until(lambda: backend.num_running == 1)
            assert seen == {1, 2}
            assert engine.counts["finished"] == engine.counts["accepted"]
            _LOG.info(f"{engine.counts['finished']} jobs with 1 to 2 replicas")

    run(body())


def test_a_rolling_change_fails_no_job(tmp_path: Path) -> None:
    changed = changed_model(tmp_path / "changed")
    one, two = ReplicaSettings(replicas=2, drain_seconds=60, **SMALL), WORKER.model_copy(update={"model": str(changed)})

    async def body() -> None:
        async with running(one) as (engine, backend):
            await until(lambda: backend.num_running == 2)
            assert engine.card is not None
            before = engine.card.digest
            (old,) = digests(await events_of(engine, job("before")))
            results: list[tuple[bool, list[str]]] = []
            over = asyncio.Event()

            async def draw(client: int) -> None:
                number = 0
                while not over.is_set():
                    number += 1
                    events = await events_of(engine, job(f"c{client}-{number}"))
                    results.append((isinstance(events[-1], Finished), digests(events)))

            clients = [asyncio.create_task(draw(client)) for client in range(4)]
            second = ray_backend(one, two)  # a second front process would do the same
            other = Engine(second)
            await other.start()
            await until(lambda: engine.card is not None and engine.card.digest != before)
            over.set()
            await asyncio.gather(*clients)
            (new,) = digests(await events_of(engine, job("after")))
            assert new != old
            assert all(finished for finished, _ in results), results
            assert {digest for _, found in results for digest in found} == {old, new}
            _LOG.info(f"{len(results)} jobs during the change, none failed")
            # A model that doesn't load leaves the replicas as they are.
            broken = Engine(ray_backend(one, WORKER.model_copy(update={"model": str(tmp_path / "nothing")})))
            await broken.start()
            assert "nothing" in str(await asyncio.wait_for(broken.failed(), 240))
            assert engine.state == "ready"
            assert digests(await events_of(engine, job("still"))) == [new]
            await other.stop()
            await broken.stop()

    run(body(), 580)


def changed_model(folder: Path) -> Path:
    """Write a model that draws other images than the embedded one."""
    import torch

    from bitvar import InfinityPipeline

    pipeline = InfinityPipeline.from_pretrained()
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.mul_(1.01)
    pipeline.save_pretrained(folder)
    return folder


def test_nothing_of_ray_is_left_behind() -> None:
    async def body() -> None:
        async with running(ReplicaSettings(replicas=1, **SMALL)) as (engine, _):
            assert engine.card is not None

    run(body())
    import ray

    assert not ray.is_initialized()
    assert not [entry for entry in Path("/proc").iterdir() if parent_of(entry) == os.getpid()]


def parent_of(entry: Path) -> int | None:
    """Process id of the parent of a process in /proc; None for other entries."""
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else None
    except OSError:
        return None
