"""Walking a folder so that every file in it is accounted for: listed, or counted by kind. No file is opened."""

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
    """Everything a walk passed over.

    Attributes:
        other_files: Number of files of other kinds by ending in lower case; "" for files without one.
        hidden: Number of files and folders whose names begin with a dot. The content of such a folder isn't counted.
        problems: Folders that couldn't be read or aren't followed, each with the reason.
    """

    other_files: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    problems: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of files of other kinds."""
        return self.other_files.total()

    def describe(self) -> str:
        """Return a text such as "14 files of other kinds skipped (.txt 12, .json 2), 1 hidden"; empty for nothing."""
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
    """List the files with given endings in a folder and all folders in it, folder by folder, sorted by name.

    Args:
        folder: The folder to search. Links to folders are not followed.
        suffixes: Endings in lower case; the case of the files' own endings doesn't matter.
        skipped: Receives everything that is passed over.
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
    """List the files that `walk_files` finds, sorted by path, and everything it passed over.

    Raises:
        UsageError: If the folder itself can't be read.
    """
    skipped = Skipped()
    found = sorted(walk_files(folder, suffixes, skipped))
    for path, why in skipped.problems:
        if path == folder:
            raise UsageError(f"Can't read the folder {folder}.", why, "check its permissions")
    return found, skipped
