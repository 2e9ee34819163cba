"""Folders that are whole or absent and know the digests of their files."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError, explain
from bitvar.files import atomic_path, flush

MANIFEST = "SHA256SUMS.json"


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`. On success it gets a manifest of digests and takes the name, whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        write_manifest(temporary)
        for path in temporary.rglob("*"):
            flush(path)
        if folder.exists():
            shutil.rmtree(folder)


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the digests of every file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def verify_folder(folder: Path) -> dict[str, str]:
    """Check every file against the folder's manifest, and return it.

    Raises:
        WeightsError: naming each missing, altered or unlisted weight file, with the digests.
    """
    try:
        sums: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            explain(f"{folder} has no readable {MANIFEST}.", str(error), "download or convert the model again")
        ) from None
    if not isinstance(sums, dict):
        raise WeightsError(
            explain(f"{folder} has no readable {MANIFEST}.", "it holds no JSON object", "download or convert it again")
        )
    problems = []
    for name, expected in sums.items():
        path = folder / name
        if not is_inside(name):
            problems.append(f"{name[:100]}: not the name of a file in the folder")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif (found := digest(path)) != expected:
            problems.append(f"{name}: sha256 {found}, expected {expected}")
    listed = set(sums)
    problems += [
        f"{path.relative_to(folder).as_posix()}: not in {MANIFEST}"
        for path in sorted(folder.rglob("*.safetensors"))
        if path.relative_to(folder).as_posix() not in listed
    ]
    if problems:
        raise WeightsError(
            explain(
                f"The files of {folder} are not the ones it was saved with:\n    " + "\n    ".join(problems),
                "they were altered, truncated or replaced",
                "download or convert the model again",
            )
        )
    return sums


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its folder, and every part of it can be a file's name."""
    parts = PurePosixPath(name).parts
    fits = all(len(part.encode("utf-8", "surrogatepass")) <= 255 for part in parts)
    return bool(parts) and fits and ".." not in parts and not name.startswith("/") and "\0" not in name


def read_weight_map(index: Path) -> dict[str, str]:
    """Which file of the index's own folder holds which tensor.

    Raises:
        WeightsError: for an index that is damaged, or leads out of the folder.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_bare_name, weight_map.values())):
        why = "it has no 'weight_map' from tensors to files of the same folder"
        raise WeightsError(explain(f"{index} is no index of shards.", why, "download it again"))
    return weight_map


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file that belongs to weights; what is wrong with it as a `WeightsError`."""
    try:
        return read_json(path)
    except UsageError as error:
        raise WeightsError(str(error)) from None


def _is_bare_name(shard: object) -> bool:
    return isinstance(shard, str) and is_inside(shard) and Path(shard).name == shard


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; an unreadable one as a `WeightsError`."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            explain(f"Can't read the weights {path}.", str(error), "download or convert the model again")
        ) from None


def merged_digest(sums: Mapping[str, str], prefix: str = "") -> str:
    """One digest for all the files of a manifest, or for those whose names begin with `prefix`."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(sums.items()) if name.startswith(prefix))
    return hashlib.sha256(lines.encode()).hexdigest()
