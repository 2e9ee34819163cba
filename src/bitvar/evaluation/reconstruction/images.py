"""Streams of images from files, folders, captioned sets and indexes, in a fixed order, one at a time."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from PIL import Image

from bitvar.data.index import is_index, read_source
from bitvar.data.layouts import LISTINGS, RawSample, Record, Rejected, read_records
from bitvar.data.walking import Skipped, walk_files
from bitvar.errors import UsageError
from bitvar.imaging.formats import IMAGE_SUFFIXES
from bitvar.imaging.open import ImageLimits, Location, RefusedError, as_rgba, decode_image, open_image

_ADDRESS: Final = "file://"


def name_source(path: Path) -> str:
    """Name a source by its absolute path, as settings hold it: a file: URL if the path is not valid UTF-8."""
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ADDRESS + quote_from_bytes(os.fsencode(text))
    return text


def find_source(name: str) -> Path:
    """Return the path that `name_source` named."""
    if name.startswith(_ADDRESS):
        return Path(os.fsdecode(unquote_to_bytes(name.removeprefix(_ADDRESS))))
    return Path(name)


class ImageStream:
    """Iterable over the images of several sources, which opens none of them.

    Args:
        sources: Image files; folders, with all the images in them; captioned sets (a folder with a `samples.jsonl`,
            or a table of samples); indexes.
        split: Restricts captioned sets and indexes to one split.
        limit: Number of images after which to stop.

    Raises:
        UsageError: for a source that isn't there, or a split when no source has splits.
    """

    def __init__(self, sources: Sequence[Path], *, split: str | None = None, limit: int | None = None) -> None:
        for source in sources:
            if not source.exists():
                raise UsageError(f"There is no {source}.", "no such file or folder", "check the path")
        if split is not None and not any(map(_has_splits, sources)):
            why = "none of the sources is a captioned set or an index"
            raise UsageError(f"There is no split {split!r}.", why, "leave --split out, or name a set")
        self.sources, self.split, self.limit = tuple(sources), split, limit
        self.skipped = Skipped()
        """Files skipped in folders since the last iteration began."""

    def __iter__(self) -> Iterator[Record]:
        self.skipped = Skipped()
        found = (record for source in self.sources for record in self._records(source))
        for count, record in enumerate(found):
            if count == self.limit:
                return
            yield record

    def _records(self, source: Path) -> Iterator[Record]:
        if _has_splits(source):
            records = read_source(source) if source.is_dir() else read_records(source)
            for record in records:
                if self.split is None or (isinstance(record, RawSample) and record.split == self.split):
                    yield record
        elif source.is_dir():
            yield from self._walk(source)
        else:
            yield RawSample(str(source), Location(source), ())

    def _walk(self, folder: Path) -> Iterator[Record]:
        """Walk folder by folder, with the names of one at a time in memory."""
        told = len(self.skipped.problems)
        for path in walk_files(folder, IMAGE_SUFFIXES, self.skipped):
            yield RawSample(path.relative_to(folder.parent).as_posix(), Location(path), ())
        for place, why in self.skipped.problems[told:]:
            yield Rejected(str(place), "unreadable-file", why)


def open_record(record: Record, limits: ImageLimits, *, transparent: bool = False) -> Image.Image:
    """Open the image of a record: RGB on white where it is transparent, or RGBA.

    Args:
        record: A record of an `ImageStream`.
        limits: Bounds on size and shape.
        transparent: Whether to keep the opacity, and open the image as RGBA.

    Raises:
        RefusedError: for an image that can't be used, or that differs from the one its source indexed.
    """
    if isinstance(record, Rejected):
        raise RefusedError(record.reason, record.detail)
    data = record.image.read(max_bytes=limits.max_bytes)
    if record.digest is not None and hashlib.sha256(data).digest() != record.digest:
        raise RefusedError("altered", "the image's bytes are not those that were indexed")
    return as_rgba(open_image(data, limits)) if transparent else decode_image(data, limits)


def _has_splits(source: Path) -> bool:
    if source.is_dir():
        return is_index(source) or (source / "samples.jsonl").is_file()
    return source.suffix.lower() in LISTINGS
