"""Going through a folder so that every file in it is accounted for: taken, or counted by kind. Opens none of them."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError

_SHOWN: Final = 6


@dataclass
class Skipped:
    """What a walk passed over.

    Attributes:
        other_files: files of other kinds, by their ending in small letters; "" is none.
        hidden: files and folders whose names begin with a dot; what is in such a folder isn't counted.
        problems: folders that were not gone through, each with the reason.
    """

    other_files: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    problems: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Files of other kinds."""
        return self.other_files.total()

    def describe(self) -> str:
        """Such as "14 files of other kinds skipped (.txt 12, .json 2), 1 hidden"; empty if nothing was passed over."""
        parts = []
        if self.other_files:
            kinds = [f"{suffix or 'no ending'} {count:,}" for suffix, count in self.other_files.most_common(_SHOWN)]
            more = len(self.other_files) - len(kinds)
            kinds += [f"{more} other kinds"] if more else []
            noun = "file" if self.count == 1 else "files"
            parts.append(f"{self.count:,} {noun} of other kinds skipped ({', '.join(kinds)})")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        return ", ".join(parts)


def walk_files(folder: Path, suffixes: Collection[str], skipped: Skipped) -> Iterator[Path]:
    """The files of a folder with one of these endings, at any depth, folder by folder and in the order of their names.

    Args:
        folder: where to look; links to folders in it are not followed.
        suffixes: endings in small letters; those of files count whatever their letters.
        skipped: gets what is passed over.
    """
    problems: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=problems.append):
        shown = [name for name in folders if not name.startswith(".")]
        skipped.hidden += len(folders) - len(shown) + sum(name.startswith(".") for name in files)
        folders[:] = sorted(shown)
        for name in folders:
            if (Path(parent) / name).is_symlink():
                skipped.problems.append((Path(parent) / name, "a link to a folder is not followed"))
        for name in sorted(name for name in files if not name.startswith(".")):
            suffix = Path(name).suffix.lower()
            if suffix in suffixes:
                yield Path(parent) / name
            else:
                skipped.other_files[suffix] += 1
        skipped.problems += [(Path(problem.filename), problem.strerror or str(problem)) for problem in problems]
        problems.clear()
    skipped.problems += [(Path(problem.filename), problem.strerror or str(problem)) for problem in problems]


def list_files(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], Skipped]:
    """`walk_files`, sorted by path, and what was passed over.

    Raises:
        UsageError: if the folder itself can't be read.
    """
    skipped = Skipped()
    found = sorted(walk_files(folder, suffixes, skipped))
    for place, why in skipped.problems:
        if place == folder:
            raise UsageError(f"Can't read the folder {folder}.", why, "check its permissions")
    return found, skipped
