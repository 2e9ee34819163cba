"""Finding the folder that a table's paths start from, for tables that are read from somewhere else than they were made.

Official tables name images from the folder in which the official code is started.
"""

import shlex
from pathlib import Path
from typing import Final

from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, ReadOptions
from bitvar.data.validation import Summary
from bitvar.imaging.open import Location

_TRIED: Final = 50
"""Samples whose paths are tried; and at most so many times as many are read to find them."""


def root_cure(source: Path, summary: Summary, options: ReadOptions) -> str | None:
    """What to do when most images are missing: the option that finds them, if a folder above the table does.

    Args:
        source: a folder or file.
        summary: of going through it.
        options: how it was read.
    """
    if 2 * summary.rejected["missing-image"] <= summary.accepted + summary.num_rejected:
        return None
    root = find_root(source, options)
    return None if root is None else f"their paths start elsewhere: add --root {shlex.quote(str(root))}"


def find_root(source: Path, options: ReadOptions) -> Path | None:
    """The nearest folder above `source` from which most of its samples' paths lead to files; None if there is none."""
    start = source.absolute()
    start = start if start.is_dir() else start.parent
    paths: list[str] = []
    for number, record in enumerate(read_records(source, options)):
        if isinstance(record, RawSample) and isinstance(record.image, Location) and not Path(record.key).is_absolute():
            paths.append(record.key)
        if len(paths) == _TRIED or number == _TRIED * _TRIED:
            break
    for folder in (start, *start.parents):
        if folder != options.root and 2 * sum((folder / path).is_file() for path in paths) > len(paths):
            return folder
    return None
