"""The pictures of an evaluation: files, folders, captioned sets and indexes, in a fixed order, one at a time."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from bitvar.data.index import is_index, read_source
from bitvar.data.layouts import LISTINGS, SUFFIXES, Candidate, Entry, Refusal, read_entries
from bitvar.data.pictures import Location, PictureLimits, RefusedError, decode_picture
from bitvar.errors import UsageError, explain


class PictureStream:
    """Goes through the pictures of several sources, as often as wanted; opens none of them.

    Args:
        sources: picture files; folders, with all the pictures in them; captioned sets (a folder with a `samples.jsonl`,
            or a table of them); indexes.
        split: of the captioned sets and indexes, only this one.
        limit: only the first so many.

    Raises:
        UsageError: for a source that isn't there, or a split when no source has splits.
    """

    def __init__(self, sources: Sequence[Path], *, split: str | None = None, limit: int | None = None) -> None:
        for source in sources:
            if not source.exists():
                raise UsageError(explain(f"There is no {source}.", "no such file or folder", "check the path"))
        if split is not None and not any(map(_has_splits, sources)):
            why = "none of the sources is a captioned set or an index"
            raise UsageError(explain(f"There is no split {split!r}.", why, "leave --split out, or name a set"))
        self.sources, self.split, self.limit = tuple(sources), split, limit
        self.others = 0
        """Files passed over so far that are no pictures by their names, since the last pass began."""

    def __iter__(self) -> Iterator[Entry]:
        self.others = 0
        found = (entry for source in self.sources for entry in self._entries(source))
        for count, entry in enumerate(found):
            if count == self.limit:
                return
            yield entry

    def _entries(self, source: Path) -> Iterator[Entry]:
        if _has_splits(source):
            entries = read_source(source) if source.is_dir() else read_entries(source)
            for entry in entries:
                if self.split is None or (isinstance(entry, Candidate) and entry.split == self.split):
                    yield entry
        elif source.is_dir():
            yield from self._walk(source)
        else:
            yield Candidate(str(source), Location(source), ())

    def _walk(self, folder: Path) -> Iterator[Entry]:
        """Folder by folder, the names of one at a time in memory."""
        problems: list[OSError] = []
        for parent, folders, files in os.walk(folder, onerror=problems.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in folders:
                if (Path(parent) / name).is_symlink():
                    yield Refusal(str(Path(parent) / name), "unreadable-file", "a link to a folder is not followed")
            for name in sorted(name for name in files if not name.startswith(".")):
                path = Path(parent) / name
                if path.suffix.lower() in SUFFIXES:
                    yield Candidate(path.relative_to(folder.parent).as_posix(), Location(path), ())
                else:
                    self.others += 1
        for problem in problems:
            yield Refusal(str(problem.filename), "unreadable-file", problem.strerror or str(problem))


def open_entry(entry: Entry, limits: PictureLimits) -> Image.Image:
    """The RGB picture of an entry.

    Raises:
        RefusedError: for one that can't be used, or that is not the one its source knows.
    """
    if isinstance(entry, Refusal):
        raise RefusedError(entry.reason, entry.detail)
    data = entry.picture.read(max_bytes=limits.max_bytes)
    if entry.digest is not None and hashlib.sha256(data).digest() != entry.digest:
        raise RefusedError("altered", "the picture's bytes are not those that were indexed")
    return decode_picture(data, limits)


def _has_splits(source: Path) -> bool:
    if source.is_dir():
        return is_index(source) or (source / "samples.jsonl").is_file()
    return source.suffix.lower() in LISTINGS
