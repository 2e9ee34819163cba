"""Finding the folder that the relative paths in a table start from, if it isn't the table's own folder.

The paths in the official tables, for example, start from the folder in which the official code is run.
"""

import shlex
from pathlib import Path
from typing import Final

from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, ReadOptions
from bitvar.data.validation import Summary
from bitvar.imaging.open import Location

_TRIED: Final = 50
"""Number of samples whose paths are tried. At most its square are read to find that number."""


def root_cure(source: Path, summary: Summary, options: ReadOptions) -> str | None:
    """Return a fix for a source most of whose images are missing: the `--root` that finds them, if there is one.

    Args:
        source: A folder or file.
        summary: Result of validating the source.
        options: The options it was read with.
    """
    if 2 * summary.rejected["missing-image"] <= summary.accepted + summary.num_rejected:
        return None
    root = find_root(source, options)
    return None if root is None else f"their paths start elsewhere: add --root {shlex.quote(str(root))}"


def find_root(source: Path, options: ReadOptions) -> Path | None:
    """Find the nearest folder above `source` from which most of the samples' paths lead to files, if there is one."""
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
