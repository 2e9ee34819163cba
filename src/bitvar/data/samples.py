"""Captioned sets as training reads them: `samples.jsonl` in a folder, and the images it names.

Lines follow the same rules as everywhere else (`records`), and images are opened in the same way (`validation`). So
training takes exactly the samples that `bitvar data check` accepts, and rejects the others for the same reasons.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from bitvar.data.index_writing import assign_splits
from bitvar.data.layouts import SET_TABLE, read_lines
from bitvar.data.records import RawSample, Record, Rejected
from bitvar.data.validation import Accepted, Size, check_ratio, open_raw_sample, without_duplicates
from bitvar.data.views import View, image_size
from bitvar.errors import UsageError
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits, Location, RefusedError

VALIDATION: Final = 0.05
"""Share of the samples without a split that go to validation, as in an index."""

_SHOWN: Final = 3


@dataclass(frozen=True)
class Sample:
    """An image of a captioned set.

    Attributes:
        path: File of the image.
        captions: One or more captions, each describing the image.
        split: Split given by the set, or drawn.
        labels: All fields of the sample's line.
        name: Name in reports: table and line.
        ratio: Height / width given by the set, if any.
        source: Folder of the set.
    """

    path: Path
    captions: tuple[str, ...]
    split: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    ratio: float | None = None
    source: Path = Path()


def read_samples(folder: Path, *, split: str | None, log: Callable[[str], None] = lambda line: None) -> list[Sample]:
    """Read the samples of one split, or of all.

    No image is opened unless two lines name it. Broken images are found when `load_images` decodes them.

    Args:
        folder: A captioned set.
        split: Name of the split; None for all samples.
        log: Receives a line of text if the set names no splits and they are drawn.

    Raises:
        UsageError: If the folder has no `samples.jsonl`, a line of it can't be used, or the split is empty.
    """
    path = folder / SET_TABLE
    if not path.is_file():
        todo = f"make one from your own images: bitvar data import {folder} NEW_FOLDER"
        raise UsageError(f"{folder} is not a captioned set.", f"it has no {SET_TABLE}", todo)
    records = list(read_set(folder))
    raw_samples = [record for record in records if isinstance(record, RawSample)]
    rejected = [record for record in records if isinstance(record, Rejected)]
    if rejected:
        raise _rejected_lines(folder, rejected, len(records))
    splits = _splits(raw_samples, log)
    samples = [
        Sample(
            raw_sample.image.file,
            raw_sample.captions,
            own,
            raw_sample.labels,
            raw_sample.name,
            raw_sample.ratio,
            folder,
        )
        for raw_sample, own in zip(raw_samples, splits, strict=True)
        if isinstance(raw_sample.image, Location) and split in (None, own)
    ]
    if not samples:
        known = ", ".join(f"{name} {splits.count(name):,}" for name in sorted(set(splits))) or "no sample at all"
        todo = "name the splits train and val, or leave them out to have some samples drawn for validation"
        raise UsageError(f"{folder} has no split {split!r}.", f"it has: {known}", todo)
    return samples


def read_set(folder: Path) -> Iterator[Record]:
    """Read every line of a captioned set, usable or not, as training does. Only images named twice are opened."""
    return without_duplicates(read_lines(folder / SET_TABLE), ImageLimits())


def _splits(raw_samples: Sequence[RawSample], log: Callable[[str], None]) -> list[str]:
    """Return the split of each sample. Samples without one get theirs drawn as in an index."""
    free = [raw_sample for raw_sample in raw_samples if raw_sample.split is None]
    if not free:
        return [raw_sample.split or "" for raw_sample in raw_samples]
    chosen = assign_splits((Accepted(raw_sample, None) for raw_sample in raw_samples), VALIDATION)
    splits = {one.raw_sample.name: one.raw_sample.split or "" for one in chosen if isinstance(one, Accepted)}
    held_out = sum(splits[raw_sample.name] == "val" for raw_sample in free)
    log(f"{len(free):,} samples name no split: {held_out:,} of them, chosen by their paths, go to validation")
    return [splits[raw_sample.name] for raw_sample in raw_samples]


def require_images(samples: Sequence[Sample], size: Size | None, *, decoded: bool = True) -> None:
    """Check before anything is encoded that no image is missing, broken, or of a size the run can't use.

    Decoding the images here costs a few per cent of the time that encoding takes, and finds a broken one at once.

    Args:
        samples: Samples of one captioned set.
        size: Width and height in pixels that every image must have; None if any size will do, the same for all.
        decoded: Decode the images. Otherwise only their headers are read, in a third of the time.

    Raises:
        UsageError: If an image doesn't pass; names the first one, and the command that makes a set of the right size.
    """
    limits = ImageLimits()
    with ThreadPoolExecutor(thread_name_prefix="images") as pool:
        sizes = list(pool.map(lambda sample: _size_of(sample, limits, decoded=decoded), samples))
    _require_sizes(samples, sizes, size)


def _size_of(sample: Sample, limits: ImageLimits, *, decoded: bool) -> Size:
    try:
        if decoded:
            return load_image(sample, limits).size
        size = image_size(sample.path, limits)
        check_ratio(sample.ratio, size)
    except RefusedError as error:
        raise _rejected_image(sample, error) from None
    return size


def _require_sizes(samples: Sequence[Sample], sizes: Sequence[Size], size: Size | None) -> None:
    counts = Counter(sizes)
    if not counts or set(counts) == {size or next(iter(counts))}:
        return
    wanted = size or counts.most_common(1)[0][0]
    first = next(sample for sample, found in zip(samples, sizes, strict=True) if found != wanted)
    wrong = counts.total() - counts[wanted]
    shown = ", ".join(f"{count:,} of {_pixels(found)}" for found, count in counts.most_common(4))
    shown += f", and {len(counts) - 4} more sizes" * (len(counts) > 4)
    needed = f"this model trains on {_pixels(wanted)}" if size else "all images of a set must have one size"
    side = f"{wanted[0]}" if wanted[0] == wanted[1] else _pixels(wanted)
    raise UsageError(
        f"{wrong:,} of {counts.total():,} images of {first.source} are not {_pixels(wanted)}.",
        f"{needed}; the set has {shown}; the first image of another size is {first.path}",
        f"make a set of that size, from the original images if they are larger:"
        f" bitvar data import {first.source} NEW_FOLDER --size {side}",
    )


def _pixels(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def load_images(
    samples: Sequence[Sample], *, channels: int = 3, limits: ImageLimits | None = None
) -> UInt8[Tensor, "n c H W"]:
    """Load the images of the samples, which must all have one size.

    Args:
        samples: Samples whose images to load.
        channels: Number of channels: 3 for RGB, others as `views.View` has them.
        limits: Bounds on an image's size and shape.

    Raises:
        UsageError: If an image can't be used, or has another size than the first; names it.
    """
    arrays: list[np.ndarray] = []
    for sample in samples:
        try:
            array = np.asarray(load_image(sample, limits)) if channels == 3 else _see_whole(sample, channels, limits)
        except RefusedError as error:
            raise _rejected_image(sample, error) from None
        if arrays and array.shape != arrays[0].shape:
            (h, w, _), (height, width, _) = array.shape, arrays[0].shape
            why = f"{sample.path} is {w}x{h}, {samples[0].path} is {width}x{height}"
            todo = f"make a set of one size: bitvar data import {sample.source} NEW_FOLDER --size {width}x{height}"
            raise UsageError("The images have different sizes.", why, todo)
        arrays.append(array)
    return channels_first(np.stack(arrays))


def load_image(sample: Sample, limits: ImageLimits | None = None) -> Image.Image:
    """Decode a sample's image to RGB.

    Raises:
        RefusedError: If `bitvar data check` would reject the sample.
    """
    raw_sample = RawSample(sample.name, Location(sample.path), sample.captions, ratio=sample.ratio)
    image, _ = open_raw_sample(raw_sample, limits or ImageLimits())
    return image


def _see_whole(sample: Sample, channels: int, limits: ImageLimits | None) -> np.ndarray:
    limits = limits or ImageLimits()
    pixels = View(channels=channels).see_whole(Location(sample.path).read(max_bytes=limits.max_bytes), limits)
    check_ratio(sample.ratio, (pixels.shape[1], pixels.shape[0]))
    return pixels


def _rejected_lines(folder: Path, rejected: Sequence[Rejected], total: int) -> UsageError:
    shown = [f"line {_line(rejection)}: {rejection.reason}, {rejection.detail}" for rejection in rejected[:_SHOWN]]
    more = f"; and {len(rejected) - _SHOWN:,} more" if len(rejected) > _SHOWN else ""
    what = f"Line {_line(rejected[0])} of {folder / SET_TABLE} can't be used"
    what += "." if len(rejected) == 1 else f", nor {len(rejected) - 1:,} more of its {total:,} samples."
    todo = f"list all of them: bitvar data check {folder}; keep the valid ones: bitvar data import {folder} NEW_FOLDER"
    if any(rejection.reason == "duplicate" for rejection in rejected):
        todo += " (--allow-duplicates keeps images that are listed several times)"
    return UsageError(what, "; ".join(shown) + more, todo)


def _line(rejection: Rejected) -> str:
    return rejection.name.rpartition(":")[2]


def _rejected_image(sample: Sample, error: RefusedError) -> UsageError:
    why = f"{error.reason}: {error.detail}"
    folder = sample.source
    todo = f"list all of them: bitvar data check {folder}; keep the valid ones: bitvar data import {folder} NEW_FOLDER"
    return UsageError(f"Can't use {sample.path} ({sample.name}).", why, todo)
