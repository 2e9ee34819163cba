"""Images without captions, as tokenizer training reads them, from a folder, a captioned set or an index."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from bitvar.data.index import Group, SampleIndex, is_index
from bitvar.data.layouts import Rejected
from bitvar.data.samples import read_samples
from bitvar.data.views import ARRAY_SUFFIX, image_size
from bitvar.data.walking import Skipped, list_files
from bitvar.errors import UsageError
from bitvar.imaging.formats import IMAGE_SUFFIXES, READ
from bitvar.imaging.open import ImageLimits, Location, RefusedError
from bitvar.official_schedules import nearest_ratio

VALIDATION: Final = 0.05
"""Share of a folder's images that are held out."""


@runtime_checkable
class ReadableSample(Protocol):
    """A sample: the location of its image, its captions, and its name in reports."""

    @property
    def image(self) -> Location: ...
    @property
    def captions(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...


@runtime_checkable
class ImageSource(Protocol):
    """Samples by index, grouped by split and ratio. `SampleIndex` implements it."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    def __getitem__(self, i: int) -> ReadableSample: ...
    def verified(self, i: int, data: bytes) -> bytes:
        """Return `data`, the image of sample `i`, or raise RefusedError if it is known to have changed."""
        ...


@dataclass(frozen=True)
class ListedImage:
    """An image without a caption, named by its path."""

    image: Location
    name: str
    captions: tuple[str, ...] = ("",)


class ImageList:
    """A list of images by path. Implements `ImageSource`."""

    def __init__(self, paths: Sequence[Path], groups: tuple[Group, ...]) -> None:
        self.paths, self.groups = paths, groups

    def __getitem__(self, i: int) -> ListedImage:
        return ListedImage(Location(self.paths[i]), str(self.paths[i]))

    def verified(self, i: int, data: bytes) -> bytes:
        return data


def open_images(
    source: Path,
    *,
    limits: ImageLimits | None = None,
    max_bad_fraction: float = 0.01,
    log: Callable[[str], None] = lambda line: None,
) -> ImageSource:
    """Open the images of a folder (with all folders in it), of a captioned set, or of an index.

    From a folder, a twentieth of the images, but at least one, goes to the split "val", chosen by a hash of the path.
    Unless the source is an index, the headers of all images are read to group them by ratio.

    Args:
        source: A folder or an index.
        limits: Bounds on an image's size and shape.
        max_bad_fraction: Largest share of images that may be unusable.
        log: Receives a line of text for each image that is left out, and a final one with the counts.

    Raises:
        UsageError: If there are no images, or too many of them can't be used.
    """
    if is_index(source):
        index = SampleIndex.open(source)
        log(describe_found(index.groups))
        return index
    if not source.is_dir():
        raise UsageError(f"There is no folder {source}.", "no such folder", "check the path")
    skipped = Skipped()
    if (source / "samples.jsonl").is_file():
        found = list(_of_set(source))
    else:
        paths, skipped = list_files(source, (*IMAGE_SUFFIXES, ARRAY_SUFFIX))
        found = list(_of_folder(source, paths))
    for path, why in skipped.problems:
        log(f"left out: {path}: {why}")
    if not found:
        why = f"it holds no {READ} file, and no {ARRAY_SUFFIX} file"
        if said := skipped.describe():
            why += f"; {said}"
        raise UsageError(f"{source} has no images.", why, "check the folder")
    listed = _grouped(found, source, limits or ImageLimits(), max_bad_fraction, log)
    rejected = len(found) - len(listed.paths)
    log(describe_found(listed.groups, rejected=rejected, skipped=skipped))
    return listed


def describe_found(groups: Sequence[Group], *, rejected: int = 0, skipped: Skipped | None = None) -> str:
    """Return one line that accounts for every file of a source.

    Args:
        groups: Groups of the source. The split "val" is held out.
        rejected: Number of images that can't be used.
        skipped: The other files in the folder.
    """
    held_out = sum(group.count for group in groups if group.split == "val")
    train = sum(group.count for group in groups if group.split == "train")
    total = sum(group.count for group in groups)
    parts = [f"{train:,} to train on", f"{held_out:,} held out"]
    if rest := total - train - held_out:
        parts.append(f"{rest:,} of other splits")
    if rejected:
        parts.append(f"{rejected:,} that can't be used")
    line = f"found {total + rejected:,} images: {', '.join(parts)}"
    said = "" if skipped is None else skipped.describe()
    return f"{line}; {said}" if said else line


def _of_set(source: Path) -> Iterator[tuple[Path, str]]:
    return ((sample.path, sample.split) for sample in read_samples(source, split=None))


def _of_folder(source: Path, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    order = sorted(paths, key=lambda path: hashlib.sha256(_name_below(source, path)).digest())
    held_out = set(order[: max(1, round(VALIDATION * len(order)))]) if len(order) > 1 else set()
    for path in paths:
        yield path, "val" if path in held_out else "train"


def _name_below(source: Path, path: Path) -> bytes:
    return path.relative_to(source).as_posix().encode("utf-8", "surrogateescape")


def _grouped(
    files: Sequence[tuple[Path, str]],
    source: Path,
    limits: ImageLimits,
    max_bad_fraction: float,
    log: Callable[[str], None],
) -> ImageList:
    sorted_out: dict[tuple[str, str], list[Path]] = {}
    rejected: list[Rejected] = []
    for path, split in files:
        try:
            width, height = image_size(path, limits)
        except RefusedError as error:
            rejected.append(Rejected(str(path), error.reason, error.detail))
            log(f"left out: {path}: {error}")
            continue
        sorted_out.setdefault((split, nearest_ratio(height / width)), []).append(path)
    if len(rejected) > max_bad_fraction * len(files):
        worst = rejected[0]
        raise UsageError(
            f"{len(rejected)} of {len(files)} images in {source} can't be used.",
            f"more than --max-bad-fraction {max_bad_fraction:g}; {worst.name}: {worst.detail}",
            "repair or remove them, or allow more",
        )
    paths: list[Path] = []
    groups = []
    for (split, ratio), members in sorted(sorted_out.items()):
        groups.append(Group(split=split, ratio=ratio, start=len(paths), count=len(members)))
        paths += members
    return ImageList(paths, tuple(groups))
