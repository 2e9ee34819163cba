"""The order of work: which image takes the next scale. It knows no model and no tensors, only predicted seconds.

Images of all jobs are chosen from at every scale boundary, so a long batch never holds up a short request. The job with
the highest response ratio goes first: its age over the seconds it still needs. A short job overtakes a long one as soon
as it has waited a fraction of its own length, equal jobs keep their order of arrival, and the ratio of a job that waits
grows without bound, so none starves.
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
    """

    id: str
    arrived: float
    images: list[ImageWork] = field(default_factory=list)


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
class Continue:
    """Take the next scale of an image that is active, and of those that share its pass."""

    image: ImageWork


@dataclass(frozen=True)
class Begin:
    """Begin these images in one pass."""

    images: tuple[ImageWork, ...]


class Scheduler:
    """Chooses the next scale among all jobs. The caller counts the scales of each image, and reports finished ones.

    Args:
        limits: What may be active at a time.
        predict: Predicts the seconds until an image is done.
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

    def waiting(self) -> list[str]:
        """Ids of the jobs of which no image has begun, in order of arrival."""
        return [job.id for job in self._jobs.values() if not any(image.active for image in job.images)]

    def choose(self, now: float) -> Continue | Begin | None:
        """Decide what to compute next; None when there is nothing.

        Args:
            now: Time in seconds of the clock that `arrived` is measured on.
        """
        jobs = sorted(self._jobs.values(), key=lambda job: self._ratio(job, now), reverse=True)
        active = [image for job in jobs for image in job.images if image.active]
        for job in jobs:
            image = next((image for image in job.images if image.active), job.images[0])
            if image.active:
                return Continue(image)
            if self._fits(image, active):
                image.active = True
                return Begin((image, *self._companions(image, jobs, active)))
            if active:  # it waits for room, and nothing that came later may take the room from it
                return Continue(active[0])
        return None

    def _ratio(self, job: JobWork, now: float) -> float:
        """Response ratio of a job: its age over the seconds it still needs."""
        return (now - job.arrived) / max(_LEAST_SECONDS, sum(self._predict(image) for image in job.images))

    def _fits(self, image: ImageWork, active: list[ImageWork]) -> bool:
        if not active:
            return True  # alone it must be tried: admission has refused what can't fit
        same = all(other.adapters == image.adapters for other in active)
        memory = sum(other.memory for other in active) + image.memory
        return same and len(active) < self._limits.active and memory <= self._limits.memory

    def _companions(self, first: ImageWork, jobs: list[JobWork], active: list[ImageWork]) -> Iterator[ImageWork]:
        """Find images that begin in the same pass, those of the first job's ratio first, and mark them active."""
        together = [*active, first]
        for image in (image for job in jobs for image in job.images if not image.active):
            if len(together) - len(active) >= self._limits.batch:
                return
            if image.group == first.group and self._fits(image, together):
                image.active = True
                together.append(image)
                yield image
