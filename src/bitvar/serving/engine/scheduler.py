"""The order of work: which image takes the next scale. It knows no model and no tensors, only predicted seconds.

Images of all jobs are chosen from at every scale boundary, so a long batch never holds up a short request. The job with
the highest slowdown goes first: its age over the seconds that all of its images take. So a short job overtakes a batch
that was begun at once within its own length, and a batch that had to wait k of its lengths within k of the short job's.
Equal jobs keep their order of arrival, and the slowdown of a job that waits grows without bound, so none starves.
(Divided by the seconds that a job still needs, a batch would get ever harder to overtake.)
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final

_LEAST_SECONDS: Final = 1e-6


@dataclass(eq=False)
class ImageWork:
    """One image of a job, as the scheduler sees it.

    Attributes:
        job: Id of its job.
        index: Index of the image in the job.
        group: Images of equal groups may share a pass.
        adapters: Adapters that it needs; only images that need the same ones can be active together.
        memory: Predicted memory in bytes while it is being drawn.
        done: Number of scales that are finished.
        active: Whether its first scale has begun.
    """

    job: str
    index: int
    group: Hashable
    adapters: Hashable
    memory: int
    done: int = 0
    active: bool = False


@dataclass(eq=False)
class JobWork:
    """A job with the images that it still needs.

    Attributes:
        id: Id of the job.
        arrived: When it was submitted, in seconds of the caller's clock.
        images: Images that are not done, in order.
        num_images: Number of images that it came with.
    """

    id: str
    arrived: float
    images: list[ImageWork]
    num_images: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_images = len(self.images)


@dataclass(frozen=True)
class Limits:
    """What may be active at a time.

    Attributes:
        memory: Memory in bytes.
        active: Number of images.
        batch: Number of images that begin together; 1 where each is computed by itself.
    """

    memory: int
    active: int
    batch: int


@dataclass(frozen=True)
class AdvancePass:
    """Take the next scale of an image that is active, and of those that share its pass."""

    image: ImageWork


@dataclass(frozen=True)
class StartPass:
    """Begin these images in one pass."""

    images: tuple[ImageWork, ...]


class Scheduler:
    """Chooses the next scale among all jobs. The caller counts the scales of each image, and reports finished ones.

    Args:
        limits: What may be active at a time.
        predict: Predicts the seconds that an image takes, from its first scale to its last.
    """

    def __init__(self, limits: Limits, predict: Callable[[ImageWork], float]) -> None:
        self._limits = limits
        self._predict = predict
        self._jobs: dict[str, JobWork] = {}

    def add(self, job: JobWork) -> None:
        """Add a job with its images."""
        self._jobs[job.id] = job

    def remove(self, job_id: str) -> None:
        """Forget a job that is done or cancelled."""
        self._jobs.pop(job_id, None)

    def finish(self, image: ImageWork) -> bool:
        """Forget a finished image, and its job with the last one. Returns whether the job is done."""
        job = self._jobs.get(image.job)
        if job is None:
            return False
        job.images.remove(image)
        if job.images:
            return False
        del self._jobs[image.job]
        return True

    def choose(self, now: float) -> AdvancePass | StartPass | None:
        """Decide what to compute next; None when there is nothing.

        Args:
            now: Time in seconds of the clock that `arrived` is measured on.
        """
        jobs = sorted(self._jobs.values(), key=lambda job: self._slowdown(job, now), reverse=True)
        active = [image for job in jobs for image in job.images if image.active]
        for job in jobs:
            image = next((image for image in job.images if image.active), job.images[0])
            if image.active:
                return AdvancePass(image)
            if self._fits(image, active):
                image.active = True
                return StartPass((image, *self._companions(image, jobs, active)))
            if active:  # it waits for room, and nothing that came later may take the room from it
                return AdvancePass(active[0])
        return None

    def _slowdown(self, job: JobWork, now: float) -> float:
        """Age of a job over the seconds that it takes where nothing else is drawn."""
        return (now - job.arrived) / max(_LEAST_SECONDS, job.num_images * self._predict(job.images[0]))

    def _fits(self, image: ImageWork, active: list[ImageWork]) -> bool:
        if not active:
            return True  # alone it must be tried: admission has refused what can't fit
        same = all(other.adapters == image.adapters for other in active)
        memory = sum(other.memory for other in active) + image.memory
        return same and len(active) < self._limits.active and memory <= self._limits.memory

    def _companions(self, first: ImageWork, jobs: list[JobWork], active: list[ImageWork]) -> Iterator[ImageWork]:
        """Find images that begin in the same pass, those of the slowest jobs first, and mark them active."""
        together = [*active, first]
        for image in (image for job in jobs for image in job.images if not image.active):
            if len(together) - len(active) >= self._limits.batch:
                return
            if image.group == first.group and self._fits(image, together):
                image.active = True
                together.append(image)
                yield image
