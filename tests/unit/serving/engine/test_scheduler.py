"""The order of work, on a simulated clock."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.engine.scheduler import AdvancePass, ImageWork, JobWork, Limits, Scheduler, StartPass

ROOM = Limits(memory=1 << 30, active=8, batch=1)


@dataclass
class Arrival:
    """A job of a simulation: every scale of every image takes the same time."""

    id: str
    at: float
    images: int = 1
    scales: int = 4
    scale_seconds: float = 1.0
    group: Hashable = "g"
    adapters: Hashable = ()
    memory: int = 1

    @property
    def seconds(self) -> float:
        return self.images * self.scales * self.scale_seconds


@dataclass
class Simulation:
    """Draws jobs in the scheduler's order, and checks the limits at every scale."""

    limits: Limits
    arrivals: list[Arrival]
    started: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    passes: list[tuple[ImageWork, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = {arrival.id: arrival for arrival in self.arrivals}
        self.scheduler = Scheduler(self.limits, lambda image: self._image_seconds(image.job))
        self._running: dict[ImageWork, tuple[ImageWork, ...]] = {}

    def run(self) -> "Simulation":
        now, coming = 0.0, sorted(self.arrivals, key=lambda arrival: arrival.at)
        while coming or self.jobs.keys() - self.finished.keys():
            while coming and coming[0].at <= now:
                self._add(coming.pop(0))
            choice = self.scheduler.choose(now)
            if choice is None:
                now = coming[0].at
                continue
            now = self._draw(choice, now)
        return self

    def wait(self, job: str) -> float:
        return self.started[job] - self.jobs[job].at

    def _image_seconds(self, job: str) -> float:
        return self.jobs[job].scales * self.jobs[job].scale_seconds

    def _add(self, one: Arrival) -> None:
        images = [ImageWork(one.id, index, one.group, one.adapters, one.memory) for index in range(one.images)]
        self.scheduler.add(JobWork(one.id, one.at, images))

    def _draw(self, choice: StartPass | AdvancePass, now: float) -> float:
        if isinstance(choice, StartPass):
            self.passes.append(choice.images)
            for image in choice.images:
                assert image not in self._running
                self._running[image] = choice.images
                self.started.setdefault(image.job, now)
            self._check_limits()
        first = choice.images[0] if isinstance(choice, StartPass) else choice.image
        together = self._running[first]
        now += self.jobs[first.job].scale_seconds
        self.order.append(first.job)
        for image in together:
            image.done += 1
            if image.done == self.jobs[image.job].scales:
                del self._running[image]
                if self.scheduler.finish(image):
                    self.finished[image.job] = now
        return now

    def _check_limits(self) -> None:
        active = list(self._running)
        assert len({image.adapters for image in active}) == 1
        if len(active) > 1:
            assert len(active) <= self.limits.active
            assert sum(image.memory for image in active) <= self.limits.memory


def test_equal_jobs_are_drawn_one_after_another_in_order_of_arrival() -> None:
    done = Simulation(ROOM, [Arrival(f"job{index}", at=0.1 * index, scales=3) for index in range(5)]).run()
    assert done.order == [f"job{index}" for index in range(5) for _ in range(3)]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_equal_jobs_finish_in_order_whenever_they_come(times: list[float], active: int) -> None:
    limits = Limits(memory=1 << 30, active=active, batch=1)
    done = Simulation(limits, [Arrival(f"{index:02d}", at) for index, at in enumerate(sorted(times))]).run()
    assert sorted(done.finished, key=lambda job: done.finished[job]) == sorted(done.finished)


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(0, 0.999), st.integers(2, 40))
def test_a_short_job_overtakes_a_batch_within_its_own_length(images: int, moment: float, scales: int) -> None:
    batch = Arrival("batch", 0.0, images=images, scales=scales)
    short = Arrival("short", moment * batch.seconds, scale_seconds=0.25)
    done = Simulation(ROOM, [batch, short]).run()
    assert done.wait("short") <= short.seconds + batch.scale_seconds
    assert done.finished["batch"] <= batch.seconds + short.seconds + 1e-6


def test_a_short_job_overtakes_batches_that_wait() -> None:
    batches = [Arrival(f"batch{index}", 0.0, images=8, scales=10) for index in range(4)]
    done = Simulation(ROOM, [*batches, Arrival("short", 100.0, scales=2)]).run()
    assert done.wait("short") <= 5  # 320 s of work are ahead of it in order of arrival


@given(st.floats(0.5, 0.99), st.integers(2, 20))
@settings(max_examples=15, deadline=None)
def test_a_batch_is_drawn_however_many_short_jobs_come(load: float, scales: int) -> None:
    batch = Arrival("batch", 0.0, images=4, scales=scales)
    short = [Arrival(f"{index}", index * 2 / load, scales=2) for index in range(int(40 * batch.seconds))]
    done = Simulation(ROOM, [batch, *short]).run()
    assert done.finished["batch"] <= batch.seconds / (1 - load) * 1.5 + 10
    assert set(done.finished) == {"batch", *(one.id for one in short)}


def test_a_batch_is_drawn_while_the_queue_is_always_full() -> None:
    """Short jobs come as fast as they are drawn, so at any time eight wait."""
    arrivals = [Arrival("batch", 0.0, images=10)]
    scheduler = Scheduler(ROOM, lambda image: 40.0 if image.job == "batch" else 1.0)
    scheduler.add(JobWork("batch", 0.0, [ImageWork("batch", 0, "g", (), 1)]))
    now, batch_scales, number = 0.0, 0, 0
    waiting: list[str] = []
    while batch_scales < 40 * arrivals[0].images and now < 5000:
        while len(waiting) < 8:
            number += 1
            waiting.append(f"{number}")
            scheduler.add(JobWork(f"{number}", now, [ImageWork(f"{number}", 0, "g", (), 1)]))
        choice = scheduler.choose(now)
        assert choice is not None
        image = choice.images[0] if isinstance(choice, StartPass) else choice.image
        now += 1.0
        if image.job == "batch":
            batch_scales += 1
        else:
            scheduler.finish(image)
            waiting.remove(image.job)
    assert batch_scales == 400


JOBS = st.builds(
    Arrival,
    id=st.just(""),
    at=st.floats(0, 50),
    images=st.integers(1, 5),
    scales=st.integers(1, 4),
    scale_seconds=st.floats(0.1, 3),
    group=st.sampled_from("ab"),
    adapters=st.sampled_from([(), ("x",), ("x", "y")]),
    memory=st.integers(1, 12),
)


@settings(deadline=None)
@given(st.lists(JOBS, max_size=12), st.integers(1, 20), st.integers(1, 5), st.integers(1, 4))
def test_whatever_comes_is_drawn_within_the_limits(jobs: list[Arrival], memory: int, active: int, batch: int) -> None:
    for index, job in enumerate(jobs):
        job.id, job.scales = str(index), 3 if job.group == "a" else 2
        job.group = (job.group, job.adapters)
    done = Simulation(Limits(memory, active, batch), jobs).run()  # it checks the limits at every pass
    assert set(done.finished) == {job.id for job in jobs}
    assert sum(map(len, done.passes)) == sum(job.images for job in jobs)
    assert all(len(together) <= batch for together in done.passes)
    assert all(len({image.group for image in together}) == 1 for together in done.passes)


def test_memory_bounds_what_is_drawn_at_a_time() -> None:
    limits = Limits(memory=10, active=8, batch=8)
    done = Simulation(limits, [Arrival("large", 0.0, images=3, memory=6)]).run()
    assert [len(together) for together in done.passes] == [1, 1, 1]
    done = Simulation(limits, [Arrival("small", 0.0, images=3, memory=5)]).run()
    assert [len(together) for together in done.passes] == [2, 1]


def test_an_image_larger_than_the_memory_is_tried_alone() -> None:
    done = Simulation(Limits(memory=10, active=8, batch=8), [Arrival("huge", 0.0, images=2, memory=50)]).run()
    assert [len(together) for together in done.passes] == [1, 1]


def test_who_waits_for_room_is_not_overtaken_by_what_comes_later() -> None:
    """A large job waits for memory that small ones would fill again and again."""
    small = [Arrival(f"{index}", 0.5 * index, memory=5, scales=2) for index in range(40)]
    done = Simulation(Limits(memory=10, active=8, batch=1), [Arrival("large", 2.2, memory=10, scales=2), *small]).run()
    assert sum(done.started[one.id] < done.started["large"] for one in small) <= 6


def test_images_with_other_adapters_are_not_active_together() -> None:
    jobs = [Arrival("plain", 0.0, scales=8), Arrival("styled", 0.1, scales=1, adapters=("ink",))]
    done = Simulation(ROOM, jobs).run()
    assert done.order == ["plain"] * 8 + ["styled"]
    same = [Arrival("plain", 0.0, scales=8), Arrival("short", 0.1, scales=1)]
    assert Simulation(ROOM, same).run().order.index("short") < 3


def test_jobs_of_one_group_share_a_pass() -> None:
    limits = Limits(memory=100, active=8, batch=4)
    jobs = [Arrival("a", 0.0, images=2), Arrival("b", 0.0), Arrival("c", 0.0, group="other"), Arrival("d", 0.0)]
    done = Simulation(limits, jobs).run()
    assert [[image.job for image in together] for together in done.passes] == [["a", "a", "b", "d"], ["c"]]


@pytest.mark.parametrize(("active", "sizes"), [(8, [3, 1]), (2, [2, 2])])
def test_a_pass_is_bounded_by_the_batch_and_by_what_may_be_active(active: int, sizes: list[int]) -> None:
    done = Simulation(Limits(memory=100, active=active, batch=3), [Arrival("a", 0.0, images=4)]).run()
    assert [len(together) for together in done.passes] == sizes


def test_a_removed_job_is_forgotten() -> None:
    scheduler = Scheduler(ROOM, lambda image: 1.0)
    image = ImageWork("job", 0, "g", (), 1)
    scheduler.add(JobWork("job", 0.0, [image]))
    assert scheduler.choose(0.0) == StartPass((image,))
    scheduler.remove("job")
    assert scheduler.choose(1.0) is None
    assert not scheduler.finish(image)
