"""What a client has been told of a job, so that drawing it again on another replica tells it nothing twice."""

import time
from collections.abc import Callable
from dataclasses import replace

from bitvar.serving.engine.events import (
    Event,
    Failed,
    Finished,
    ImageDone,
    Preview,
    ScaleDone,
    Started,
)

MODEL_CHANGED = Failed("worker_died", "The model was replaced while it drew the image. Try again.")


class Delivery:
    """Passes each event of a job once, however often the job is drawn.

    Every draw of a job gives the same images, since it names its seeds, and tells of an image's scales in order. So
    an event is new if its image is not yet that far.

    Args:
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._submitted = clock()
        self._started: float | None = None
        self._scales: dict[int, int] = {}  # number of scales told, by image
        self._previews: dict[int, int] = {}
        self._images: set[int] = set()
        self._digest: str | None = None

    @property
    def num_scales(self) -> int:
        """Number of scales that have been told."""
        return sum(self._scales.values())

    def start_draw(self, digest: str) -> bool:
        """Begin a draw by the model with this digest. False if another model has drawn a part that was told."""
        if self._started is not None and digest != self._digest:
            return False
        self._digest = digest
        return True

    def take(self, event: Event) -> Event | None:
        """Return the event as the client shall see it; None if it was told before."""
        if isinstance(event, Finished):
            # A replica knows only its own draw: neither the wait before it nor the draws that were lost.
            now = self._clock()
            started = now if self._started is None else self._started
            return replace(event, queued_seconds=started - self._submitted, drawing_seconds=now - started)
        return event if self._is_new(event) else None

    def _is_new(self, event: Event) -> bool:
        match event:
            case Started():
                if is_new := self._started is None:
                    self._started = self._clock()
            case ScaleDone():
                is_new = _advance(self._scales, event.image, event.scale)
            case Preview():
                is_new = _advance(self._previews, event.done.image, event.index)
            case ImageDone():
                is_new = event.image not in self._images
                self._images.add(event.image)
            case _:
                is_new = True
        return is_new


def _advance(told: dict[int, int], image: int, index: int) -> bool:
    """Record that an image came to an index. False if it was there before."""
    if index < told.get(image, 0):
        return False
    told[image] = index + 1
    return True
