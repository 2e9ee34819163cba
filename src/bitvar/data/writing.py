"""Folders of captioned sets while they are written: one that was cut short can't pass for a whole one."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitvar.errors import UsageError, explain
from bitvar.files import write_text

_PICTURES_PER_FOLDER = 1000
_INCOMPLETE = ".incomplete"


def prepare_folder(destination: Path) -> None:
    """Make the folder, and clear the pictures of a build that was cut short; UsageError if they are somebody else's."""
    marker, images = destination / _INCOMPLETE, destination / "images"
    if images.exists():
        if not marker.exists():
            why = f"{images} exists and was not written by an unfinished build"
            raise UsageError(explain(f"Can't write a captioned set to {destination}.", why, "choose an empty folder"))
        shutil.rmtree(images)
    destination.mkdir(parents=True, exist_ok=True)
    marker.touch()


def picture_path(index: int) -> Path:
    """Where the picture of a sample goes, relative to the set."""
    return Path("images") / f"{index // _PICTURES_PER_FOLDER:03d}" / f"{index:06d}.png"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def finish_folder(destination: Path, rows: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> None:
    """Write the manifest and then, last, `samples.jsonl`: from here on the set is whole."""
    write_text(destination / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    write_text(destination / "samples.jsonl", json_lines(rows))
    (destination / _INCOMPLETE).unlink()
