"""Writing the folder of a captioned set so that an interrupted build can't pass for a complete one."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitvar.errors import UsageError
from bitvar.files import write_text

_IMAGES_PER_FOLDER = 1000
_INCOMPLETE = ".incomplete"


def prepare_folder(destination: Path, *, source: Path | None = None) -> None:
    """Make the folder, or clear the images that an interrupted build left in it.

    Args:
        destination: A new or empty folder, or one left by an interrupted build.
        source: Source of the set, if it is a path. Nothing is written among its files.

    Raises:
        UsageError: If the folder holds anything else, or is the source or inside it.
    """
    what, todo = f"Can't write a captioned set to {destination}.", "choose a new folder"
    if source is not None and source.is_dir() and destination.resolve().is_relative_to(source.resolve()):
        where = f"it is {'' if destination.resolve() == source.resolve() else 'inside '}{source}"
        raise UsageError(what, f"{where}, whose files are the samples", "choose a folder elsewhere")
    marker, images = destination / _INCOMPLETE, destination / "images"
    if destination.exists() and not destination.is_dir():
        raise UsageError(what, "it is a file", todo)
    there = sorted(path.name for path in destination.iterdir()) if destination.exists() else []
    if there and not marker.exists():
        shown = ", ".join(there[:3]) + (f" and {len(there) - 3:,} more" if len(there) > 3 else "")
        raise UsageError(what, f"it holds {shown}, and nothing is overwritten", todo)
    if images.exists():
        shutil.rmtree(images)
    destination.mkdir(parents=True, exist_ok=True)
    marker.touch()


def image_path(index: int) -> Path:
    """Return the path of a sample's image, relative to the set."""
    return Path("images") / f"{index // _IMAGES_PER_FOLDER:03d}" / f"{index:06d}.png"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write one JSON object per line."""
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def finish_folder(destination: Path, rows: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> None:
    """Write the manifest, and `samples.jsonl` last: with it the set is complete."""
    write_text(destination / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    write_text(destination / "samples.jsonl", json_lines(rows))
    (destination / _INCOMPLETE).unlink()
