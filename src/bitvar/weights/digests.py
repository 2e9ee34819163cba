"""Folders that are whole or absent and know the digests of their files; safetensors files, read and written.

A folder's manifest binds what computes: weights, configurations and vocabularies. Its card and notes may be edited.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.files import (
    REPLACING,
    is_file_name,
    is_lfs_pointer,
    named_disk_errors,
    open_plain,
    read_plain,
    replaced_folder,
)

MANIFEST = "SHA256SUMS.json"

_NOTES: Final = {"README", "LICENSE", "LICENCE", "NOTICE", "COPYING", "ATTRIBUTION", "CHANGELOG", "CITATION"}
_PULL: Final = "run `git lfs pull` in the clone, or download the model again"
_SHOWN: Final = 40


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`. On success it gets a manifest of digests and takes the name, whole.

    Raises:
        UsageError: as `require_replaceable`.
        OSError: for a disk that fails, with the errno and the folder's name.
    """
    require_replaceable(folder)
    with replaced_folder(folder, check=require_replaceable, seal=write_manifest) as temporary:
        yield temporary


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that a save must not replace: only an empty one, or one that a save wrote, may go.

    Raises:
        UsageError: for a file, the current folder or one above it, the home folder or one above it, a folder without a
            manifest of ours, or one that holds a file that its manifest doesn't list, or a text that was edited since.
    """
    if not is_file_name(str(folder)):
        why = "it is empty, or holds a NUL or half a character"
        raise UsageError(f"No folder can be called {str(folder)!a}.", why, "choose another name")
    place = Path(os.path.realpath(folder))
    if not place.exists():
        return
    if not place.is_dir():
        raise UsageError(f"{folder} is no folder.", "a file or a device has that name", "choose another name")
    for other, what in ((Path.cwd(), "the current folder"), (_home(), "the home folder")):
        if other is not None and other.resolve().is_relative_to(place):
            why = f"it is {what}" if other.resolve() == place else f"it holds {what}"
            raise UsageError(f"{str(folder)!r} can't be replaced.", why, "name a folder of its own")
    with REPLACING:
        foreign = _foreign(place)
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise UsageError(
            f"{folder} holds files that bitvar did not save so.", shown, "move them, or choose another folder"
        )


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user without one
        return None


def _foreign(folder: Path) -> list[str]:
    """What is in a folder that no manifest lists, or differently; all of it if there is no manifest.

    Weights are not read again for this: nobody edits them by hand.
    """
    found = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    try:
        sums = _read_manifest(folder)
    except WeightsError:
        sums = {}
    listed = {PurePosixPath(name) for name in sums} | ({PurePosixPath(MANIFEST)} if sums else set())
    parents = {parent for name in listed for parent in name.parents}
    foreign = [
        str(name)
        for name in found
        if PurePosixPath(name) not in (parents if (folder / name).is_dir() else listed)
        or ((folder / name).is_symlink() and (folder / name).is_dir())
    ]
    edited = [
        f"{name} (edited since)"
        for name, expected in sums.items()
        if is_inside(name) and not name.endswith(".safetensors") and _is_edited(folder / name, expected)
    ]
    return foreign + edited


def _is_edited(path: Path, expected: str) -> bool:
    try:
        return digest(path) != expected and not _line_ends_changed(path, expected)
    except OSError:  # what is gone, or no file, is nothing to lose
        return False


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the digests of every file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def verify_folder(folder: Path, part: str = "") -> dict[str, str]:
    """Check what computes against the folder's manifest, and return the digests of all files that it lists.

    Args:
        folder: the one with the manifest.
        part: a folder in it, which is then checked alone.

    Cards and notes (see `is_note`) may be edited, removed and added; so may files whose names begin with a dot. JSON
    whose line ends are CRLF now is the JSON it was.

    Raises:
        WeightsError: naming each missing, altered or unlisted file, with the digests.
    """
    sums = _read_manifest(folder)
    if part:
        sums = {name: value for name, value in sums.items() if name.startswith(f"{part}/")}
    problems = {name: problem for name, expected in sums.items() if (problem := _problem(folder, name, expected))}
    for path in sorted((folder / part).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in sums and not path.is_dir() and not _may_be_added(name):
            problems[name] = f"not in {MANIFEST}"
    if problems:
        listed = [f"{name[:100]}: {problem}" for name, problem in problems.items()]
        more = [f"and {len(listed) - _SHOWN} more"] if len(listed) > _SHOWN else []
        raise WeightsError(
            f"The files of {folder / part} are not the ones it was saved with:\n    "
            + "\n    ".join(listed[:_SHOWN] + more),
            *_cure(problems.values()),
        )
    return sums


def read_card(folder: Path) -> str:
    """The card of a model, README.md, as it is today; empty where there is none that can be read."""
    try:
        return read_plain(folder / "README.md").decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def is_note(name: str) -> bool:
    """Whether a file of this name is for people alone: a card, a licence, a note; git's own files count too."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".md" or path.name in (".gitattributes", ".gitignore"):
        return True
    return path.stem.upper() in _NOTES and path.suffix.lower() in ("", ".txt", ".rst")


def _may_be_added(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return is_note(name) or parts[-1] == MANIFEST or any(part.startswith(".") for part in parts)


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        sums = json.loads(read_plain(folder / MANIFEST))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise WeightsError(
            f"{folder} has no readable {MANIFEST}.", why, "download or convert the model again"
        ) from None
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        why = "it holds no JSON object of digests"
        raise WeightsError(f"{folder} has no readable {MANIFEST}.", why, "download or convert it again")
    return sums


def _problem(folder: Path, name: str, expected: str) -> str | None:
    """What is wrong with a listed file, if anything is."""
    path = folder / name
    if not is_inside(name):
        return "not the name of a file in the folder"
    if is_note(name):
        return None
    try:
        found = digest(path)
        return None if found == expected else _difference(path, found, expected)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _difference(path: Path, found: str, expected: str) -> str | None:
    if is_lfs_pointer(path):
        return "a Git LFS pointer, not the file itself"
    if _line_ends_changed(path, expected):
        return None if path.suffix == ".json" else "its line ends were changed to CRLF"
    return f"sha256 {found}, expected {expected}"


def _line_ends_changed(path: Path, expected: str) -> bool:
    """Whether a text differs by CRLF line ends alone."""
    if path.suffix == ".safetensors":
        return False
    return hashlib.sha256(read_plain(path).replace(b"\r\n", b"\n")).hexdigest() == expected


def _cure(problems: Iterable[str]) -> tuple[str, str]:
    """Why files have these problems, and what to do."""
    if any("Git LFS" in problem for problem in problems):
        return "Git LFS has not fetched the files themselves", _PULL
    if any("line ends" in problem for problem in problems):
        todo = "run `git config core.autocrlf false` in the clone, and check the files out again"
        return "git, or an editor, rewrites the line ends of texts", todo
    if all(problem == "permission denied" for problem in problems):
        return "this user may not read them", "ask whoever owns them for permission to read (chmod a+r)"
    if all(problem.startswith("not in ") for problem in problems):
        return "files were added that a loader might read", "remove or rename these files"
    return "they were altered, truncated or replaced", "download or convert the model again"


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
        raise WeightsError(f"{index} is no index of shards.", why, "download it again")
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
    require_weights_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"Can't read the weights {path}.", str(error), "download or convert the model again"
        ) from None


def require_weights_file(path: Path) -> None:
    """Refuse what is no file of weights before a library opens it.

    Raises:
        WeightsError: for a missing file, a pipe or a device, or a Git LFS pointer.
    """
    try:
        pointer = is_lfs_pointer(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise WeightsError(f"Can't read the weights {path}.", why, "download or convert the model again") from None
    if pointer:
        why = "it is a Git LFS pointer, not the file itself"
        raise WeightsError(f"Can't read the weights {path}.", why, _PULL)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, with the permissions of any new file.

    Raises:
        OSError: for a disk that fails, with its errno and the file's name.
    """
    with named_disk_errors(path):
        with path.open("wb") as file:  # the library would take permissions of its own
            mode = os.fstat(file.fileno()).st_mode
        save_file(dict(tensors), path, None if metadata is None else dict(metadata))
        path.chmod(stat.S_IMODE(mode))


def merged_digest(sums: Mapping[str, str], prefix: str | tuple[str, ...] = "") -> str:
    """One digest for those files of a manifest whose names begin with `prefix`, or with one of several; notes apart."""
    bound = [(name, value) for name, value in sorted(sums.items()) if name.startswith(prefix) and not is_note(name)]
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in bound).encode()).hexdigest()
