"""The backend of replicas with a cluster that follows a script: drawing again, cancelling, failing, changing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from bitvar.errors import UsageError
from bitvar.serving.engine.backend import Backend
from bitvar.serving.engine.engine import Engine, EngineLimits
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageDone,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.wire import Frame, event_frame, pack
from bitvar.serving.replicas.backend import RayBackend
from bitvar.serving.replicas.interface import (
    Cluster,
    DeploymentStatus,
    Description,
    ReplicaFaultError,
    ReplicaLostError,
)
from tests.support.serving import CARD

READY = DeploymentStatus(is_settled=True, num_running=2)
UNCHANGED = Description("v1", CARD)
CHANGED = Description("v2", CARD.model_copy(update={"digest": "icons@new"}))
SCALES = 3


def job(name: str = "one") -> Job:
    return Job.model_validate({"id": name, "request": {"prompts": ("a red apple",), "seed": (7,)}})


def hello(replica: str = "r1", digest: str = CARD.digest, version: str = "v1") -> bytes:
    return pack(Frame("hello", {"replica": replica, "version": version, "digest": digest}))


def whole_draw() -> list[Event]:
    scales = [ScaleDone(0, index, SCALES, (1, 1), index + 1, SCALES) for index in range(SCALES)]
    image = ImageDone(0, b"file", "png", 8, 8, 8, 8, 7, {"seed": 7})
    return [Started(), *scales, image, Finished(Usage(1, 3), (), 0.0, 0.0)]


Step = Event | bytes | Exception | asyncio.Event
"""What a draw does next: tell an event, send these bytes, break, or wait for a test."""


@dataclass
class ScriptedDraw:
    name: str
    steps: list[Step]
    cancelled: bool = False
    closed: bool = False

    async def frames(self) -> AsyncIterator[bytes]:
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, bytes):
                    yield step
                else:
                    yield pack(event_frame(self.name, step))
        finally:
            self.closed = True

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class ScriptedCluster:
    """A cluster whose draws follow scripts, one after another; the last script repeats."""

    scripts: list[list[Step]] = field(default_factory=lambda: [[hello(), *whole_draw()]])
    standing: DeploymentStatus | Exception = READY
    found: Description = UNCHANGED
    version: str | None = None
    draws: list[ScriptedDraw] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    closed: int = 0

    def status(self) -> DeploymentStatus:
        if isinstance(self.standing, Exception):
            raise self.standing
        return self.standing

    async def describe(self) -> Description:
        return self.found

    def draw(self, text: str) -> ScriptedDraw:
        script = self.scripts[min(len(self.draws), len(self.scripts) - 1)]
        self.draws.append(ScriptedDraw(Job.model_validate_json(text).id, list(script)))
        return self.draws[-1]

    def kill(self, replica: str) -> None:
        self.killed.append(replica)

    def close(self) -> None:
        self.closed += 1


def run(
    test: Callable[[Engine, RayBackend], Coroutine[Any, Any, None]],
    cluster: ScriptedCluster | Exception,
    limits: EngineLimits | None = None,
) -> None:
    """Run a test with an engine whose cluster is ready, unless it fails to open."""

    def open_cluster() -> Cluster:
        if isinstance(cluster, Exception):
            raise cluster
        return cluster

    async def body() -> None:
        backend = RayBackend(open_cluster, poll_seconds=0.001)
        engine = Engine(backend, limits)
        await engine.start()
        try:
            if isinstance(cluster, ScriptedCluster) and cluster.standing == READY:
                await until(lambda: engine.state == "ready")
            await test(engine, backend)
        finally:
            await engine.stop()
        assert not isinstance(cluster, ScriptedCluster) or cluster.closed == 1

    asyncio.run(asyncio.wait_for(body(), 30))


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        await asyncio.sleep(0.001)


async def events_of(engine: Engine, one: Job) -> list[Event]:
    return [event async for event in engine.submit(one).events()]


def check_whole(events: list[Event]) -> None:
    """Check that a client sees a draw once, from its start to its end."""
    assert events[:-1] == whole_draw()[:-1]
    assert isinstance(events[-1], Finished)


def test_it_is_a_backend() -> None:
    assert isinstance(RayBackend(ScriptedCluster), Backend)


@pytest.mark.parametrize("lost_after", range(1, len(whole_draw())))
@pytest.mark.parametrize("error", [ReplicaLostError("it died"), None], ids=["died", "ended"])
def test_a_job_whose_replica_is_lost_is_drawn_again(lost_after: int, error: Exception | None) -> None:
    break_off: list[Step] = [] if error is None else [error]
    first: list[Step] = [hello("r1"), *whole_draw()[:lost_after], *break_off]
    cluster = ScriptedCluster([first, [hello("r2"), *whole_draw()]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        check_whole(await events_of(engine, job()))
        assert [draw.name for draw in cluster.draws] == ["one", "one"]
        assert all(draw.cancelled and draw.closed for draw in cluster.draws)
        assert backend.num_redrawn == 1

    run(test, cluster)


def test_a_job_that_kills_every_replica_fails() -> None:
    cluster = ScriptedCluster([[hello(), Started(), ReplicaLostError("it died")]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        events = await events_of(engine, job())
        assert events[0] == Started()
        assert isinstance(events[1], Failed) and events[1].code == "worker_died" and "3 times" in events[1].message
        assert len(events) == 2 and len(cluster.draws) == 3

    run(test, cluster)


def test_a_job_that_no_replica_takes_is_offered_until_its_deadline() -> None:
    cluster = ScriptedCluster([[ReplicaLostError("none is there")]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        (last,) = await events_of(engine, job())
        assert isinstance(last, Failed) and last.code == "timeout"
        assert len(cluster.draws) > 2

    run(test, cluster, EngineLimits(request_timeout=0.4))


def test_a_fault_of_a_replica_is_not_repeated() -> None:
    cluster = ScriptedCluster([[hello(), Started(), ReplicaFaultError("a bug")]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        events = await events_of(engine, job())
        assert isinstance(events[-1], Failed) and events[-1].code == "server_error"
        assert "bug" not in events[-1].message
        assert len(cluster.draws) == 1

    run(test, cluster)


def test_failures_of_the_job_pass() -> None:
    failure = Failed("invalid_value", "No.", "prompt")

    async def test(engine: Engine, backend: RayBackend) -> None:
        assert await events_of(engine, job()) == [failure]

    run(test, ScriptedCluster([[hello(), failure]]))


def test_a_part_of_a_frame_is_a_lost_replica() -> None:
    cluster = ScriptedCluster([[hello(), pack(event_frame("one", Started()))[:-1]], [hello("r2"), *whole_draw()]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        check_whole(await events_of(engine, job()))

    run(test, cluster)


def test_cancelling_stops_the_draw_and_says_how_far_it_came() -> None:
    async def test(engine: Engine, backend: RayBackend) -> None:
        never = asyncio.Event()
        cluster.scripts = [[hello(), *whole_draw()[:3], never]]
        ticket = engine.submit(job())
        await until(lambda: engine.counts["scales"] == 2)
        assert backend.replica_of("one") == "r1"
        assert engine.cancel("one")
        events = [event async for event in ticket.events()]
        assert events[-1] == Cancelled()
        await until(lambda: engine.counts["scales_of_cancelled"] == 2)
        assert cluster.draws[0].cancelled and cluster.draws[0].closed
        assert backend.replica_of("one") is None

    cluster = ScriptedCluster()
    run(test, cluster)


def test_a_cancelled_job_is_not_drawn_again() -> None:
    """As when Ray reports the cancellation as a lost draw."""

    async def test(engine: Engine, backend: RayBackend) -> None:
        lost = asyncio.Event()
        cluster.scripts = [[hello(), Started(), lost, ReplicaLostError("cancelled")]]
        engine.submit(job())
        await until(lambda: engine.num_running == 1)
        engine.cancel("one")
        lost.set()
        await until(lambda: backend.replica_of("one") is None)
        assert len(cluster.draws) == 1

    cluster = ScriptedCluster()
    run(test, cluster)


def test_a_job_is_submitted_once() -> None:
    async def test(engine: Engine, backend: RayBackend) -> None:
        never = asyncio.Event()
        cluster.scripts = [[hello(), never]]
        backend.submit(job())
        backend.submit(job())
        await until(lambda: backend.replica_of("one") == "r1")
        assert len(cluster.draws) == 1

    cluster = ScriptedCluster()
    run(test, cluster)


def test_a_restart_kills_the_replicas_that_draw() -> None:
    async def test(engine: Engine, backend: RayBackend) -> None:
        cluster.scripts = [[hello("r1"), asyncio.Event()], [hello("r2"), asyncio.Event()]]
        for name in ("one", "two"):
            engine.submit(job(name))
            await until(lambda name=name: backend.replica_of(name) is not None)
        await backend.restart()
        assert sorted(cluster.killed) == ["r1", "r2"]

    cluster = ScriptedCluster()
    run(test, cluster)


def test_a_cluster_that_does_not_open_is_a_failure() -> None:
    error = UsageError("Can't join the Ray cluster.")

    async def test(engine: Engine, backend: RayBackend) -> None:
        assert await engine.failed() is error
        assert engine.state == "failed"

    run(test, error)


def test_a_model_that_does_not_load_is_a_failure() -> None:
    error = UsageError("There is no model 'x'.")

    async def test(engine: Engine, backend: RayBackend) -> None:
        assert await engine.failed() is error

    run(test, ScriptedCluster(standing=DeploymentStatus(is_settled=False, failure=error)))


def test_it_is_ready_with_the_first_replica() -> None:
    cluster = ScriptedCluster(standing=DeploymentStatus(is_settled=False))

    async def test(engine: Engine, backend: RayBackend) -> None:
        await asyncio.sleep(0.01)
        assert engine.state == "loading" and engine.card is None
        cluster.standing = DeploymentStatus(is_settled=False, num_running=1)
        await until(lambda: engine.state == "ready")
        assert engine.card == CARD

    run(test, cluster)


def test_a_changed_model_is_adopted_once_every_replica_has_it() -> None:
    cluster = ScriptedCluster()

    async def test(engine: Engine, backend: RayBackend) -> None:
        cluster.found = CHANGED
        cluster.standing = DeploymentStatus(is_settled=False, num_running=1)
        await until(lambda: backend.num_running == 1)
        assert engine.card == CARD and engine.state == "ready"
        cluster.standing = READY
        await until(lambda: engine.card == CHANGED.card)
        assert engine.state == "ready"

    run(test, cluster)


def test_a_draw_by_another_model_makes_it_look_again() -> None:
    """As when it changed so fast that no look saw it changing."""
    cluster = ScriptedCluster([[hello("r2", "icons@new", "v2"), *whole_draw()]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        cluster.found = CHANGED
        await asyncio.sleep(0.01)
        assert engine.card == CARD
        check_whole(await events_of(engine, job()))
        await until(lambda: engine.card == CHANGED.card)

    run(test, cluster)


def test_who_deploys_waits_for_its_own_replicas() -> None:
    cluster = ScriptedCluster(standing=DeploymentStatus(is_settled=False, num_running=2), version="v2")

    async def test(engine: Engine, backend: RayBackend) -> None:
        await until(lambda: backend.num_running == 2)
        await asyncio.sleep(0.01)
        assert engine.state == "loading"  # the replicas that run are someone else's, and about to be replaced
        cluster.found = CHANGED
        await until(lambda: engine.state == "ready")
        assert engine.card == CHANGED.card

    run(test, cluster)


def test_a_new_model_that_does_not_load_leaves_the_old_one() -> None:
    cluster = ScriptedCluster()

    async def test(engine: Engine, backend: RayBackend) -> None:
        error = UsageError("There is no model 'x'.")
        cluster.standing = DeploymentStatus(is_settled=False, failure=error, num_running=1)
        await until(lambda: backend.num_running == 1)
        assert engine.state == "ready" and engine.card == CARD
        check_whole(await events_of(engine, job()))

    run(test, cluster)


def test_a_job_in_the_middle_does_not_change_its_model() -> None:
    first: list[Step] = [hello("r1"), *whole_draw()[:2], ReplicaLostError("it was replaced")]
    cluster = ScriptedCluster([first, [hello("r2", "icons@new"), *whole_draw()]])

    async def test(engine: Engine, backend: RayBackend) -> None:
        events = await events_of(engine, job())
        assert events[:-1] == whole_draw()[:2]
        assert isinstance(events[-1], Failed) and events[-1].code == "worker_died"

    run(test, cluster)


def test_an_unknown_state_changes_nothing() -> None:
    cluster = ScriptedCluster()

    async def test(engine: Engine, backend: RayBackend) -> None:
        cluster.standing = ReplicaLostError("the controller is away")
        await asyncio.sleep(0.01)
        assert engine.state == "ready"
        check_whole(await events_of(engine, job()))

    run(test, cluster)


def test_stopping_ends_open_jobs() -> None:
    cluster = ScriptedCluster()

    async def test(engine: Engine, backend: RayBackend) -> None:
        cluster.scripts = [[hello(), asyncio.Event()]]
        ticket = engine.submit(job())
        await until(lambda: backend.replica_of("one") is not None)
        await engine.stop()
        (last,) = [event async for event in ticket.events()]
        assert isinstance(last, Failed) and last.code == "draining"
        assert cluster.draws[0].cancelled
        assert cluster.closed == 1  # and not again when `run` stops it once more

    run(test, cluster)
