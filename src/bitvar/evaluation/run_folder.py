"""The folder that an evaluation writes to: a new one, or one that an evaluation has written to. Knows no figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError
from bitvar.files import read_plain

SETTINGS: Final = "settings.json"
"""Which every evaluation writes first."""


def require_own(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder in which files of somebody else's would be replaced or taken for an evaluation's.

    Args:
        folder: may not be there yet.
        names: of files that the evaluation writes.

    Raises:
        UsageError: for a file in the folder's place, or files of these names without the settings of an evaluation.
    """
    if not folder.is_dir():
        place = next((place for place in (folder, *folder.parents) if place.exists() or place.is_symlink()), None)
        if place is not None and not place.is_dir():
            why = f"{place} is no folder"
            raise UsageError(f"Can't write to {folder}.", why, "choose another folder with -o")
        return
    there = sorted(name for name in {*names, SETTINGS} if (folder / name).exists() or (folder / name).is_symlink())
    if there and not _is_evaluation(folder):
        why = f"it holds files that no evaluation wrote: {', '.join(there)}"
        raise UsageError(f"Can't write to {folder}.", why, "choose another folder with -o")


def _is_evaluation(folder: Path) -> bool:
    try:
        values = json.loads(read_plain(folder / SETTINGS))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "format" in values
