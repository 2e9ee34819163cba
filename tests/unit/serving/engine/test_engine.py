"""The engine in the front process, with a backend that a test moves step by step and a clock of the test's."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.pipeline.request import GenerationRequest
from bitvar.serving.engine.backend import BackendListener, State
from bitvar.serving.engine.engine import Engine, EngineLimits, RefusedJobError, Ticket
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Preview,
    Queued,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard
from tests.support.serving import CARD

DONE = Finished(Usage(1, 85), (), 0.0, 0.1)
LIMITS = EngineLimits(max_queue=4, request_timeout=100, drain_timeout=50, stall_timeout=20)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers run when a test says that time passes."""

    now = 0.0

    def time(self) -> float:
        return self.now


class ManualBackend:
    """A backend of which a test says what it does, and which obeys cancelling when the test lets it."""

    def __init__(self, card: ModelCard | None = CARD) -> None:
        self.card = card
        self.state: State = "ready" if card else "loading"
        self.listener: BackendListener | None = None
        self.jobs: dict[str, int] = {}
        """Scales that were drawn of the jobs that it has."""
        self.cancelled: list[str] = []
        self.submitted: list[str] = []
        self.restarts = 0

    async def start(self, listener: BackendListener) -> None:
        self.listener = listener

    def submit(self, job: Job) -> None:
        assert self.state == "ready"
        self.submitted.append(job.id)
        self.jobs[job.id] = 0

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def restart(self) -> None:
        self.restarts += 1
        self.lose()

    async def stop(self) -> None:
        self.state = "stopped"

    def tell(self, job_id: str, *events: Event) -> None:
        assert self.listener is not None
        for event in events:
            self.listener.on_event(job_id, event)

    def draw(self, job_id: str) -> None:
        """Draw the next scale of a job; after the fourth the job is done."""
        if not self.jobs[job_id]:
            self.tell(job_id, Started())
        self.tell(job_id, ScaleDone(0, self.jobs[job_id], 4, (1, 1), 1, 4))
        self.jobs[job_id] += 1
        if self.jobs[job_id] == 4:
            self.end(job_id, DONE)

    def end(self, job_id: str, event: Event) -> None:
        del self.jobs[job_id]
        self.tell(job_id, event)

    def obey(self) -> None:
        """Give up the cancelled jobs that it still has."""
        for job_id in self.cancelled:
            if job_id in self.jobs:
                self.end(job_id, Cancelled(self.jobs[job_id]))
        self.cancelled.clear()

    def lose(self) -> None:
        if self.state != "ready":
            return
        self.jobs.clear()
        self.cancelled.clear()
        self.state = "restarting"
        assert self.listener is not None
        self.listener.on_lost()

    def come_back(self) -> None:
        if self.state == "ready":
            return
        self.card, self.state = self.card or CARD, "ready"
        assert self.listener is not None
        self.listener.on_ready()


def job(name: str) -> Job:
    return Job(id=name, request=GenerationRequest(prompts=("an apple",), width=64, height=64, seed=1))


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(test)


async def pass_time(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.now += seconds
    for _ in range(10):
        await asyncio.sleep(0)


async def started(backend: ManualBackend, limits: EngineLimits = LIMITS) -> Engine:
    engine = Engine(backend, limits)  # type: ignore[arg-type]
    await engine.start()
    return engine


async def events_of(ticket: Ticket) -> list[Event]:
    return [event async for event in ticket.events()]


def test_a_job_s_events_come_in_order_and_end() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        ticket = engine.submit(job("a"))
        for _ in range(4):
            backend.draw("a")
        events = await events_of(ticket)
        assert [type(event) for event in events] == [Started, *[ScaleDone] * 4, Finished]
        assert (engine.num_waiting, engine.num_running) == (0, 0)

    run(test())


def test_the_queue_is_bounded_and_says_when_to_come_again() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        for index in range(4):
            engine.submit(job(f"{index}"))
        with pytest.raises(RefusedJobError) as refused:
            engine.submit(job("too-many"))
        assert refused.value.reason == "queue_full"
        assert refused.value.retry_after is not None and 1 <= refused.value.retry_after <= 120
        backend.draw("0")  # it waits no longer, and makes room
        engine.submit(job("next"))
        assert engine.counts["refused_queue_full"] == 1 and engine.counts["accepted"] == 5

    run(test())


def test_positions_in_the_queue_are_told() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        tickets = [engine.submit(job(name)) for name in "abc"]
        for name in "abc":
            for _ in range(4):
                backend.draw(name)
        positions = [event.position for event in await events_of(tickets[2]) if isinstance(event, Queued)]
        assert positions == [2, 1, 0]

    run(test())


@pytest.mark.parametrize(("scales", "obeys"), [(0, True), (2, True), (2, False)])
def test_a_job_fails_at_its_deadline_and_is_given_up(scales: int, obeys: bool) -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        ticket = engine.submit(job("a"))
        for _ in range(scales):
            backend.draw("a")
        await pass_time(99)
        assert ticket.last is None
        await pass_time(1)
        assert isinstance(ticket.last, Failed) and ticket.last.code == "timeout"
        assert backend.cancelled == ["a"]
        if obeys:
            backend.obey()
        await pass_time(20)
        assert backend.restarts == (0 if obeys else 1)
        assert isinstance((await events_of(ticket))[-1], Failed)

    run(test())


def test_a_backend_that_does_not_give_up_a_job_is_restarted_and_others_are_drawn() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        stuck, waiting = engine.submit(job("stuck")), engine.submit(job("waiting"))
        backend.draw("stuck")
        engine.cancel("stuck")
        await pass_time(19)
        assert backend.restarts == 0
        await pass_time(1)
        assert backend.restarts == 1
        backend.come_back()
        assert backend.submitted == ["stuck", "waiting", "waiting"]
        for _ in range(4):
            backend.draw("waiting")
        assert isinstance(stuck.last, Cancelled) and isinstance(waiting.last, Finished)

    run(test())


def test_cancelling_a_waiting_job_costs_no_scale() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        engine.submit(job("first"))
        ticket = engine.submit(job("second"))
        assert engine.cancel("second") and not engine.cancel("second") and not engine.cancel("unknown")
        assert isinstance((await events_of(ticket))[-1], Cancelled)
        backend.obey()
        assert engine.counts["cancelled"] == 1
        assert engine.num_waiting == 1

    run(test())


def test_another_thread_counts_jobs_that_come_and_go() -> None:
    async def test() -> None:
        engine = await started(ManualBackend(), EngineLimits(max_queue=4000))
        for number in range(2000):
            engine.submit(job(f"open-{number}"))
        done = threading.Event()

        def count() -> list[tuple[int, int]]:
            counts = list[tuple[int, int]]()
            while not done.is_set():
                counts.append((engine.num_waiting, engine.num_running))
            return counts

        with ThreadPoolExecutor(1) as pool:
            counting = pool.submit(count)
            end = time.monotonic() + 0.3
            while time.monotonic() < end and not counting.done():
                engine.submit(job("passing"))
                engine.cancel("passing")
            done.set()
            counts = counting.result()
        assert set(counts) <= {(2000, 0), (2001, 0)}

    run(test())


def test_jobs_cancelled_while_the_backend_is_away_are_not_drawn() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        backend.lose()
        engine.submit(job("a"))
        engine.submit(job("b"))
        engine.cancel("a")
        backend.come_back()
        assert backend.submitted == ["b"]
        await pass_time(30)
        assert backend.restarts == 0

    run(test())


def test_a_lost_worker_fails_what_it_drew_and_draws_what_waited() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        drawn, waiting = engine.submit(job("drawn")), engine.submit(job("waiting"))
        backend.draw("drawn")
        backend.lose()
        assert engine.state == "restarting"
        assert isinstance(drawn.last, Failed) and drawn.last.code == "worker_died"
        later = engine.submit(job("later"))  # the queue stays open
        backend.come_back()
        assert backend.submitted == ["drawn", "waiting", "waiting", "later"]
        for name in ("waiting", "later"):
            for _ in range(4):
                backend.draw(name)
        assert isinstance(waiting.last, Finished) and isinstance(later.last, Finished)
        assert engine.counts["lost"] == 1

    run(test())


def test_a_job_that_kills_the_worker_before_its_first_scale_is_not_tried_for_ever() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        ticket = engine.submit(job("poison"))
        for _ in range(3):
            backend.lose()
            backend.come_back()
        assert isinstance(ticket.last, Failed) and ticket.last.code == "worker_died"
        assert backend.submitted == ["poison"] * 3

    run(test())


def test_before_the_model_is_loaded_jobs_are_refused_and_told_when_to_come() -> None:
    async def test() -> None:
        engine = await started(ManualBackend(card=None))
        with pytest.raises(RefusedJobError) as refused:
            engine.submit(job("early"))
        assert (refused.value.reason, refused.value.retry_after) == ("loading", 2)

    run(test())


def test_an_image_that_can_not_fit_is_refused() -> None:
    async def test() -> None:
        engine = await started(ManualBackend(CARD.model_copy(update={"memory_budget": (1 << 20) - 1})))
        with pytest.raises(RefusedJobError) as refused:
            engine.submit(job("large"))
        assert (refused.value.reason, refused.value.retry_after) == ("too_large", None)

    run(test())


def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        tickets = [engine.submit(job(name)) for name in "ab"]
        draining = asyncio.create_task(engine.drain())
        await pass_time(1)
        assert engine.state == "draining"
        with pytest.raises(RefusedJobError) as refused:
            engine.submit(job("late"))
        assert (refused.value.reason, refused.value.retry_after) == ("draining", None)
        for name in "ab":
            for _ in range(4):
                backend.draw(name)
        await pass_time(0)
        assert draining.done() and all(isinstance(ticket.last, Finished) for ticket in tickets)

    run(test())


def test_draining_ends_at_its_own_deadline() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        ticket = engine.submit(job("slow"))
        backend.draw("slow")
        draining = asyncio.create_task(engine.drain())
        await pass_time(0)
        await pass_time(50)
        assert draining.done() and isinstance(ticket.last, Failed) and ticket.last.code == "draining"

    run(test())


def test_a_backend_that_failed_for_good_ends_every_job_and_refuses_more() -> None:
    async def test() -> None:
        engine = await started(ManualBackend())
        ticket = engine.submit(job("a"))
        error = ValueError("no such model")
        engine.on_failed(error)
        assert isinstance(ticket.last, Failed) and ticket.last.code == "server_error"
        assert await engine.failed() is error
        with pytest.raises(RefusedJobError, match="could not be loaded"):
            engine.submit(job("b"))

    run(test())


def test_the_time_to_come_again_follows_what_images_take() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        for number in range(30):
            engine.submit(job(f"{number}"))
            backend.end(f"{number}", Finished(Usage(1, 85), (), 0.0, 8.5))
        for number in range(4):
            engine.submit(job(f"open-{number}"))
        assert 30 <= engine.retry_after() <= 36  # four jobs of 8.5 seconds

    run(test())


def test_previews_that_wait_for_a_slow_client_are_bounded_and_the_image_comes() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        ticket = engine.submit(job("a"))
        done = ScaleDone(0, 0, 4, (1, 1), 1, 4)
        backend.tell("a", Started(), *[Preview(index, done, b"x" * (1 << 20)) for index in range(5)])
        for _ in range(4):
            backend.draw("a")
        events = await events_of(ticket)
        assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]
        assert engine.counts["previews_left_out"] == 3 and isinstance(events[-1], Finished)

    run(test())


def test_a_client_that_reads_gets_every_preview_however_large() -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        events = engine.submit(job("a")).events()
        done = ScaleDone(0, 0, 4, (1, 1), 1, 4)
        for index in range(5):
            backend.tell("a", Preview(index, done, b"x" * (3 << 20)))
            assert isinstance(preview := await anext(events), Preview) and preview.index == index

    run(test())


STEPS = st.one_of(
    st.just(("submit", 0)),
    st.tuples(st.sampled_from(["cancel", "draw", "fail"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["obey", "lose", "come_back"]), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 120)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=40), st.sampled_from(["drain", "stop", "fail"]))
def test_in_every_order_each_accepted_job_has_exactly_one_last_event(steps: list[tuple[str, int]], end: str) -> None:
    async def test() -> None:
        engine = await started(backend := ManualBackend())
        tickets: list[Ticket] = []
        for step, number in steps:
            await _step(engine, backend, tickets, step, number)
        if end == "fail":
            engine.on_failed(ValueError("gone"))
        elif end == "drain":
            draining = asyncio.create_task(engine.drain())
            await pass_time(0)
            await pass_time(50)
            assert draining.done()
            backend.obey()
        await engine.stop()
        for ticket in tickets:
            events = await events_of(ticket)
            assert [isinstance(event, Finished | Failed | Cancelled) for event in events].count(True) == 1
            assert events[-1] is ticket.last
            assert ticket._events.empty()
        counts = engine.counts
        assert counts["accepted"] == len(tickets) == counts["finished"] + counts["failed"] + counts["cancelled"]
        assert (engine.num_waiting, engine.num_running) == (0, 0)

    run(test())


async def _step(engine: Engine, backend: ManualBackend, tickets: list[Ticket], step: str, number: int) -> None:
    held = list(backend.jobs)
    if step == "submit":
        try:
            tickets.append(engine.submit(job(f"{len(tickets)}")))
        except RefusedJobError as refused:
            assert refused.reason == "queue_full" and engine.num_waiting == LIMITS.max_queue
    elif step == "cancel" and tickets:
        engine.cancel(tickets[number % len(tickets)].job.id)
    elif step == "draw" and held:
        backend.draw(held[number % len(held)])
    elif step == "fail" and held:
        backend.end(held[number % len(held)], Failed("server_error", "It failed."))
    elif step == "wait":
        await pass_time(number)
    elif step in ("obey", "lose", "come_back"):
        getattr(backend, step)()
    assert engine.num_waiting <= LIMITS.max_queue
    await asyncio.sleep(0)
