"""The models and tokenizers on this machine: in the package, in the hub's cache, and in folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitvar.errors import UsageError
from bitvar.weights.hub import EMBEDDED_MODEL, TOKENIZERS
from bitvar.weights.hub_cache import KINDS, cached_models


@dataclass(frozen=True)
class FoundModel:
    """A model or a tokenizer on this machine.

    Attributes:
        name: Name to give to other commands: that in the package, a hub id, or a path.
        place: "package", "cache" or "folder".
        folder: Folder of its files.
        revision: Commit of a hub id; None for others.
        missing: Files that are not downloaded yet.
    """

    name: str
    place: str
    folder: Path
    revision: str | None = None
    missing: tuple[str, ...] = ()


def find_models(folders: Sequence[Path], cache: Path) -> list[FoundModel]:
    """Find the models and tokenizers on this machine: in the package, in the hub's cache, and in folders.

    Args:
        folders: Folders to look into; empty for `models` and `runs` in the current one, where they exist.
        cache: The hub's cache folder.

    Raises:
        UsageError: for a folder that doesn't exist.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise UsageError(f"There is no folder {missing[0]}.", fix="check the path")
    found = [FoundModel(folder.name, "package", folder) for folder in (EMBEDDED_MODEL, *TOKENIZERS)]
    found += [
        FoundModel(model.name, "cache", model.folder, model.commit, model.missing) for model in cached_models(cache)
    ]
    roots = folders or [folder for folder in (Path("models"), Path("runs")) if folder.is_dir()]
    local = {
        path.parent for root in roots for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}SHA256SUMS.json")
    }
    return found + [
        FoundModel(str(folder), "folder", folder)
        for folder in sorted(local)
        if any((folder / kind).is_file() for kind in KINDS)
    ]
