"""Image batches for training a tokenizer; each batch has one size."""

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
    """The images of a micro-batch, as bytes, `(b, c, H, W)`."""

    micro_batch: MicroBatch
    images: Tensor


@runtime_checkable
class ImageData(Protocol):
    """A source of image batches. All images of a bucket have one size."""

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of images in each bucket."""
        ...

    @property
    def schedules(self) -> tuple[int, ...]:
        """Index of the schedule that each bucket's images use."""
        ...

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        """Yield the images of each micro-batch, in order."""
        ...


class ImageSet:
    """Images in memory, all of one size. Implements `ImageData`.

    Args:
        images: Pixels as bytes.
        schedule: Index of the schedule that they use.
    """

    def __init__(self, images: UInt8[Tensor, "n c H W"], schedule: int = 0) -> None:
        self.images = images
        self.counts, self.schedules = (len(images),), (schedule,)

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        return (ImageBatch(micro_batch, self.images[micro_batch.samples]) for micro_batch in micro_batches)


class ImageFiles:
    """Images read from their files as they are needed. Implements `ImageData`.

    Each ratio of the source becomes a bucket on the schedule nearest in ratio. Where several schedules share that
    ratio, the same images become one bucket on each.

    Args:
        source: Source of the images.
        split: Split of the source.
        schedules: Grids of each scale, one list per image size.
        stride: Pixels per cell side.
        view: Channels to read and how to draw a crop.
        bad: Budget of images that can't be used.
        limits: Limits on the size and shape of an image.
        workers: Number of reading processes; 0 to read in this one.
        pinned: Whether to pin the memory, for faster copies to a GPU.
        max_samples: Images of each ratio to use; None for all.

    Raises:
        UsageError: If the split has no samples.
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
        max_samples: int | None = None,
    ) -> None:
        groups = [group for group in source.groups if group.split == split]
        if not groups:
            known = ", ".join(sorted({group.split for group in source.groups})) or "none"
            raise UsageError(f"The data have no split {split!r}.", f"they have: {known}", "add images to it")
        lasts = [grids[-1] for grids in schedules]
        buckets = [(group, index) for group in groups for index in nearest_in_ratio(lasts, float(group.ratio))]
        counts = (min(group.count, max_samples or group.count) for group, _ in buckets)
        self.groups = [group.model_copy(update={"count": n}) for (group, _), n in zip(buckets, counts, strict=True)]
        self.counts = tuple(group.count for group in self.groups)
        self.schedules = tuple(index for _, index in buckets)
        sizes = [(lasts[index][1] * stride, lasts[index][0] * stride) for index in self.schedules]
        self.reader = MicroBatchReader(source, self.groups, sizes, None, limits, view)
        self.bad, self.workers, self.pinned = bad, workers, pinned

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[ImageBatch]:
        for loaded in read_micro_batches(self.reader, micro_batches, workers=self.workers, pinned=self.pinned):
            self.bad.count(len(loaded.micro_batch), loaded.refused)
            yield ImageBatch(loaded.micro_batch, loaded.images)
