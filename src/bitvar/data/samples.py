"""Captioned images of a folder: `samples.jsonl` and the files it names, as training reads them.

Lines go through the same rules as everywhere else (`records`), and images through the same opening (`check`), so that
training takes exactly the samples that `bitvar data check` calls good, and refuses the others for the same reasons.
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

from bitvar.data.index_writing import choose_splits
from bitvar.data.layouts import SET_TABLE, read_lines
from bitvar.data.records import RawSample, Record, Rejected
from bitvar.data.validation import Accepted, Size, check_ratio, open_raw_sample, without_duplicates
from bitvar.data.views import image_size
from bitvar.errors import UsageError
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits, Location, RefusedError

VALIDATION: Final = 0.05
"""Share of the samples without a split that validate, as of an index."""

_SHOWN: Final = 3


@dataclass(frozen=True)
class Sample:
    """One image: its file, the captions that all describe it, and whatever labels the set has.

    Attributes:
        path: the image's file.
        captions: one or more, each true of the image.
        split: given by the set, or drawn for it.
        labels: the fields of its line.
        name: how reports call it: table and line.
        ratio: height / width as the set claims, if it does.
        source: the set's folder.
    """

    path: Path
    captions: tuple[str, ...]
    split: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    ratio: float | None = None
    source: Path = Path()


def read_samples(folder: Path, *, split: str | None, log: Callable[[str], None] = lambda line: None) -> list[Sample]:
    """The samples of one split, or all of them for None.

    Opens no image, unless two lines name it: what is wrong with one is found when `load_images` decodes it.

    Args:
        folder: a captioned set.
        split: of the set.
        log: receives a line of text if the set names no split and one is drawn.

    Raises:
        UsageError: if the folder has no `samples.jsonl`, a line of it can't be used, or the split is empty.
    """
    path = folder / SET_TABLE
    if not path.is_file():
        todo = f"make one of your own images: bitvar data import {folder} NEW_FOLDER"
        raise UsageError(f"{folder} is no captioned set.", f"it has no {SET_TABLE}", todo)
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
        todo = "name the splits train and val, or leave them out: then some are drawn to validate"
        raise UsageError(f"{folder} has no split {split!r}.", f"it has: {known}", todo)
    return samples


def read_set(folder: Path) -> Iterator[Record]:
    """Every line of a captioned set as training reads it, good or rejected. Opens no image that is there once."""
    return without_duplicates(read_lines(folder / SET_TABLE), ImageLimits())


def _splits(raw_samples: Sequence[RawSample], log: Callable[[str], None]) -> list[str]:
    """The split of each; where none is named, it is drawn as for an index."""
    free = [raw_sample for raw_sample in raw_samples if raw_sample.split is None]
    if not free:
        return [raw_sample.split or "" for raw_sample in raw_samples]
    chosen = choose_splits((Accepted(raw_sample, None) for raw_sample in raw_samples), VALIDATION)
    splits = {good.raw_sample.name: good.raw_sample.split or "" for good in chosen if isinstance(good, Accepted)}
    held_out = sum(splits[raw_sample.name] == "val" for raw_sample in free)
    log(f"{len(free):,} samples name no split: {held_out:,} of them validate, drawn by their paths")
    return [splits[raw_sample.name] for raw_sample in raw_samples]


def require_images(samples: Sequence[Sample], size: Size | None, *, decoded: bool = True) -> None:
    """Refuse images that are missing or broken, or not of the size that a run needs, before anything is encoded.

    Decoding them here as well costs a few per cent of what encoding them takes, and a broken one is found at once.

    Args:
        samples: samples of one captioned set.
        size: width and height in pixels that every image must have; the same for all, if None.
        decoded: decode them; else their headers alone are read, in a third of the time.

    Raises:
        UsageError: naming the first ones, and the command that makes a set of the right size.
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
        f"{needed}; it has {shown}; the first of another size is {first.path}",
        f"make a set of that size, from the originals if they are larger:"
        f" bitvar data import {first.source} NEW_FOLDER --size {side}",
    )


def _pixels(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def load_images(samples: Sequence[Sample], *, limits: ImageLimits | None = None) -> UInt8[Tensor, "n 3 H W"]:
    """Every image of the samples, in memory; they must be of one size.

    Raises:
        UsageError: naming the first image that can't be used, or is of another size than the first.
    """
    arrays: list[np.ndarray] = []
    for sample in samples:
        try:
            array = np.asarray(load_image(sample, limits))
        except RefusedError as error:
            raise _rejected_image(sample, error) from None
        if arrays and array.shape != arrays[0].shape:
            (h, w, _), (height, width, _) = array.shape, arrays[0].shape
            why = f"{sample.path} is {w}x{h}, {samples[0].path} is {width}x{height}"
            todo = f"make a set of one size: bitvar data import {sample.source} NEW_FOLDER --size {width}x{height}"
            raise UsageError("The images are not of one size.", why, todo)
        arrays.append(array)
    return channels_first(np.stack(arrays))


def load_image(sample: Sample, limits: ImageLimits | None = None) -> Image.Image:
    """A sample's decoded RGB image.

    Raises:
        RefusedError: for what `bitvar data check` refuses.
    """
    raw_sample = RawSample(sample.name, Location(sample.path), sample.captions, ratio=sample.ratio)
    image, _ = open_raw_sample(raw_sample, limits or ImageLimits())
    return image


def _rejected_lines(folder: Path, rejected: Sequence[Rejected], total: int) -> UsageError:
    shown = [f"line {_line(rejection)}: {rejection.reason}, {rejection.detail}" for rejection in rejected[:_SHOWN]]
    more = f"; and {len(rejected) - _SHOWN:,} more" if len(rejected) > _SHOWN else ""
    what = f"Line {_line(rejected[0])} of {folder / SET_TABLE} can't be used"
    what += "." if len(rejected) == 1 else f", nor {len(rejected) - 1:,} more of its {total:,} samples."
    todo = f"see all of them: bitvar data check {folder}; keep the good ones: bitvar data import {folder} NEW_FOLDER"
    if any(rejection.reason == "duplicate" for rejection in rejected):
        todo += " (--allow-duplicates keeps images that are there several times)"
    return UsageError(what, "; ".join(shown) + more, todo)


def _line(rejection: Rejected) -> str:
    return rejection.name.rpartition(":")[2]


def _rejected_image(sample: Sample, error: RefusedError) -> UsageError:
    why = f"{error.reason}: {error.detail}"
    folder = sample.source
    todo = f"see all such: bitvar data check {folder}; keep the good ones: bitvar data import {folder} NEW_FOLDER"
    return UsageError(f"Can't use {sample.path} ({sample.name}).", why, todo)
