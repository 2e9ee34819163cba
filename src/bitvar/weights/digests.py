"""Folders with a manifest: written atomically, and verified by the digests of their files.

The manifest protects the files that determine a model's output: weights, configurations and vocabularies. Cards and
notes may be edited.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.files import (
    REPLACING,
    is_file_name,
    is_lfs_pointer,
    open_plain,
    read_plain,
    replaced_folder,
)

MANIFEST: Final = "SHA256SUMS.json"
LFS_FIX: Final = "run `git lfs pull` in the clone, or download the model again"

_NOTES: Final = {"README", "LICENSE", "LICENCE", "NOTICE", "COPYING", "ATTRIBUTION", "CHANGELOG", "CITATION"}
_MAX_LISTED: Final = 40


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it gets a manifest of digests and replaces `folder`.

    Raises:
        UsageError: as `require_replaceable`.
        OSError: if the disk fails, with the errno and the folder's name.
    """
    _require_folder_name(folder)
    with replaced_folder(folder, check=lambda _: require_replaceable(folder), seal=write_manifest) as temporary:
        yield temporary


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that a save must not replace. Only an empty folder, or one that a save wrote, may be replaced.

    Raises:
        UsageError: for a file; the current folder, the home folder, or a parent of either; a folder without a manifest;
            or a folder with a file that its manifest doesn't list, or a text that was edited since.
    """
    _require_folder_name(folder)
    target = Path(os.path.realpath(folder))
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{folder} is no folder.", "a file or a device has that name", "choose another name")
    for other, what in ((Path.cwd(), "the current folder"), (_home(), "the home folder")):
        if other is not None and other.resolve().is_relative_to(target):
            why = f"it is {what}" if other.resolve() == target else f"it holds {what}"
            raise UsageError(f"{str(folder)!r} can't be replaced.", why, "name a folder of its own")
    with REPLACING:
        foreign = _foreign_files(target)
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise UsageError(
            f"{folder} holds files that bitvar did not save there.", shown, "move them, or choose another folder"
        )


def _require_folder_name(folder: Path) -> None:
    if not is_file_name(str(folder)):
        why = "it is empty, or contains a NUL or an incomplete character"
        raise UsageError(f"No folder can be called {str(folder)!a}.", why, "choose another name")


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home folder
        return None


def _foreign_files(folder: Path) -> list[str]:
    """List the files of a folder that its manifest lacks or that were edited; all files if there is no manifest.

    Weights are not digested again for this, since nobody edits them by hand.
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
    except OSError:  # a file that is gone, or is no file, can't be lost
        return False


def digest(path: Path) -> str:
    """Compute the sha256 of a file, in hex."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder: the digest of each of its files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sums = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def verify_folder(folder: Path, part: str = "") -> dict[str, str]:
    """Verify the files of a folder against its manifest.

    Cards and notes (see `is_note`) may be edited, removed and added; so may files whose names begin with a dot. JSON
    files may have their line ends changed to CRLF.

    Args:
        folder: Folder with the manifest.
        part: Name of a folder in it to verify alone; empty for all.

    Returns:
        The digest of every listed file by its name.

    Raises:
        WeightsError: naming each missing, altered or unlisted file, with the digests.
    """
    sums = _read_manifest(folder)
    if part:
        sums = {name: value for name, value in sums.items() if name.startswith(f"{part}/")}
    problems = {name: found for name, expected in sums.items() if (found := _find_problem(folder, name, expected))}
    for path in sorted((folder / part).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in sums and not path.is_dir() and not _may_be_added(name):
            problems[name] = f"not in {MANIFEST}"
    if problems:
        listed = [f"{name[:100]}: {problem}" for name, problem in problems.items()]
        more = [f"and {len(listed) - _MAX_LISTED} more"] if len(listed) > _MAX_LISTED else []
        raise WeightsError(
            f"The files of {folder / part} are not the ones it was saved with:\n    "
            + "\n    ".join(listed[:_MAX_LISTED] + more),
            *_explain_problems(problems.values()),
        )
    return sums


def read_card(folder: Path) -> str:
    """Read the card of a model, README.md; empty if there is none or it can't be read."""
    try:
        return read_plain(folder / "README.md").decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


def is_note(name: str) -> bool:
    """Whether a file is for people only, by its name: a card, a licence or a note. Git's own files count as notes."""
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


def _find_problem(folder: Path, name: str, expected: str) -> str | None:
    """Describe what is wrong with a listed file; None if nothing is."""
    path = folder / name
    if not is_inside(name):
        return "not the name of a file in the folder"
    if is_note(name):
        return None
    try:
        actual = digest(path)
        return None if actual == expected else _difference(path, actual, expected)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _difference(path: Path, actual: str, expected: str) -> str | None:
    if is_lfs_pointer(path):
        return "a Git LFS pointer, not the file itself"
    if _line_ends_changed(path, expected):
        return None if path.suffix == ".json" else "its line ends were changed to CRLF"
    return f"sha256 {actual}, expected {expected}"


def _line_ends_changed(path: Path, expected: str) -> bool:
    """Whether a text differs only by CRLF line ends."""
    if path.suffix == ".safetensors":
        return False
    return hashlib.sha256(read_plain(path).replace(b"\r\n", b"\n")).hexdigest() == expected


def _explain_problems(problems: Iterable[str]) -> tuple[str, str]:
    """Explain why files have these problems, and what to do."""
    if any("Git LFS" in problem for problem in problems):
        return "Git LFS has not fetched the files themselves", LFS_FIX
    if any("line ends" in problem for problem in problems):
        fix = "run `git config core.autocrlf false` in the clone, and check the files out again"
        return "git, or an editor, rewrites the line ends of texts", fix
    if all(problem == "permission denied" for problem in problems):
        return "this user may not read them", "ask whoever owns them for permission to read (chmod a+r)"
    if all(problem.startswith("not in ") for problem in problems):
        return "files were added that a loader might read", "remove or rename these files"
    return "they were altered, truncated or replaced", "download or convert the model again"


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its folder and every part of it is a valid file name."""
    parts = PurePosixPath(name).parts
    fits = all(len(part.encode("utf-8", "surrogatepass")) <= 255 for part in parts)
    return bool(parts) and fits and ".." not in parts and not name.startswith("/") and "\0" not in name


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file that belongs to weights.

    Raises:
        WeightsError: for a file that is missing or holds no JSON object.
    """
    try:
        return read_json(path)
    except UsageError as error:
        raise WeightsError(str(error)) from None


def merged_digest(sums: Mapping[str, str], prefix: str | tuple[str, ...] = "") -> str:
    """Merge the digests of a manifest's files, except notes, whose names begin with a prefix or one of several."""
    bound = [(name, value) for name, value in sorted(sums.items()) if name.startswith(prefix) and not is_note(name)]
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in bound).encode()).hexdigest()
