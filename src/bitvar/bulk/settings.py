"""What the images of a folder have in common: `run.json`, written once, and compared by every later command.

Prompts may be added to a folder; settings that all of its images share may not change within it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import Field

from bitvar.bulk.folder import HIDDEN, require_marked
from bitvar.bulk.work import SETTINGS
from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import write_text


class RunSettings(Config):
    """The settings of a folder.

    Attributes:
        base_seed: Number from which seeds are derived for prompts that have none.
        settings: Settings as JSON values, by the names that users know.
        format: Format number.
    """

    base_seed: int = Field(ge=0)
    settings: dict[str, Any]
    format: int = 1


def read_base_seed(folder: Path) -> int | None:
    """Return the base seed of a folder; None for a folder without `run.json`."""
    path = folder / SETTINGS
    return RunSettings.load(path).base_seed if path.is_file() else None


def claim_folder(folder: Path, settings: Mapping[str, Any], *, base_seed: int) -> int:
    """Write the settings of a new folder, or compare them with those that are there.

    Args:
        folder: Output folder; made if it isn't there.
        settings: Settings that all images share, as JSON values; None for one that wasn't given.
        base_seed: Base seed of a new folder.

    Returns:
        The folder's base seed: another process may have been faster.

    Raises:
        UsageError: The folder has images of other settings, and the error lists the differences; or it has a ledger
            without settings.
    """
    own = RunSettings(base_seed=base_seed, settings=_given(settings))
    own = RunSettings.parse(json.loads(own.dump()), source="the settings")  # as a file gives them: lists, no tuples
    require_marked(folder, SETTINGS)
    try:
        (folder / HIDDEN).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"Can't write to {folder}.", "a file is in its place", "choose another folder") from None
    with FileLock(folder / HIDDEN / "run.lock", poll_interval=0.01):
        path = folder / SETTINGS
        if not path.is_file():
            write_text(path, own.dump())
            return base_seed
        there = RunSettings.load(path)
    changed = [
        f"{name} was {_shown(there.settings.get(name))}, now {_shown(own.settings.get(name))}"
        for name in sorted({**there.settings, **own.settings})
        if there.settings.get(name) != own.settings.get(name)
    ]
    if changed:
        fix = "give the options that it was begun with, or choose another folder"
        raise UsageError(f"{folder} has images of other settings.", "; ".join(changed), fix)
    return there.base_seed


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None and value not in ("", [], ())}


def _shown(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
