"""What a tokenizer run reads: batches of images, each of one size."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from bitvar.data.listing import ImageSource
from bitvar.data.views import View
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits
from bitvar.scales import Grid, nearest_in_ratio
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.streaming import BadSamples, MicroBatchReader, read_micro_batches


class ImageBatch(NamedTuple):
    """What a step reads of a micro_batch: which samples, and their pixels, `(b, c, H, W)`, bytes."""

    micro_batch: MicroBatch
    images: Tensor


@runtime_checkable
class ImageData(Protocol):
    """Where images come from. Those of a bucket are all of one size."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each bucket."""
        ...

    @property
    def schedules(self) -> tuple[int, ...]:
        """Which of the run's schedules each bucket's images are on."""
        ...

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        """A batch for each micro_batch, in order."""
        ...


class ImageSet:
    """Images in memory, all of one size. Implements `ImageData`.

    Args:
        images: bytes.
        schedule: which of the run's schedules they are on.
    """

    def __init__(self, images: UInt8[Tensor, "n c H W"], schedule: int = 0) -> None:
        self.images = images
        self.counts, self.schedules = (len(images),), (schedule,)

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        return (ImageBatch(micro_batch, self.images[micro_batch.samples]) for micro_batch in micro_batches)


class ImageFiles:
    """Images read from their files as they are needed. Implements `ImageData`.

    Each ratio of the source is a bucket on the schedule nearest in ratio; where several sizes are as near, the same
    images are a bucket of each.

    Args:
        source: of the images.
        split: of the source.
        schedules: cells of each scale, one list a size.
        stride: pixels per cell side.
        view: channels, and how crops are drawn.
        bad: the budget of images that can't be used.
        limits: what an image may be.
        workers: processes that read ahead; 0 to read here.
        pinned: for faster copying to a GPU.
        most: images of each ratio to use; all if None.

    Raises:
        UsageError: if the split has no samples.
    """

    def __init__(
        self,
        source: ImageSource,
        split: str,
        *,
        schedules: Sequence[Sequence[Grid]],
        stride: int,
        view: View,
        bad: BadSamples,
        limits: ImageLimits | None = None,
        workers: int = 0,
        pinned: bool = False,
        most: int | None = None,
    ) -> None:
        groups = [group for group in source.groups if group.split == split]
        if not groups:
            known = ", ".join(sorted({group.split for group in source.groups})) or "none"
            raise UsageError(f"The data have no split {split!r}.", f"they have: {known}", "add images to it")
        lasts = [grids[-1] for grids in schedules]
        buckets = [(group, which) for group in groups for which in nearest_in_ratio(lasts, float(group.ratio))]
        counts = (min(group.count, most or group.count) for group, _ in buckets)
        self.groups = [group.model_copy(update={"count": n}) for (group, _), n in zip(buckets, counts, strict=True)]
        self.counts = tuple(group.count for group in self.groups)
        self.schedules = tuple(which for _, which in buckets)
        sizes = [(lasts[which][1] * stride, lasts[which][0] * stride) for which in self.schedules]
        self.reader = MicroBatchReader(source, self.groups, sizes, None, limits, view)
        self.bad, self.workers, self.pinned = bad, workers, pinned

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        for loaded in read_micro_batches(self.reader, micro_batches, workers=self.workers, pinned=self.pinned):
            self.bad.count(len(loaded.micro_batch), loaded.refused)
            yield ImageBatch(loaded.micro_batch, loaded.images)
