"""The output folder of an evaluation: whose it is, the lock on it, and files that resume. Knows no metrics.

Every evaluation writes its settings first. The same settings resume in the folder, others are refused.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from filelock import FileLock, Timeout

from bitvar.config import Config, read_json
from bitvar.errors import UsageError
from bitvar.files import read_plain, write_text

SETTINGS: Final = "settings.json"
"""The file that every evaluation writes first."""

_LOCK: Final = ".lock"
_ELSEWHERE: Final = "choose another folder with -o"


def require_own(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder in which the evaluation would replace, or mistake for its own, files that it didn't write.

    Args:
        folder: Output folder, which may not exist yet.
        names: Names of the files and folders that the evaluation writes.

    Raises:
        UsageError: for a file in the folder's place, or files of these names without the settings of an evaluation.
    """
    if not folder.is_dir():
        place = next((place for place in (folder, *folder.parents) if place.exists() or place.is_symlink()), None)
        if place is not None and not place.is_dir():
            raise UsageError(f"Can't write to {folder}.", f"{place} is no folder", _ELSEWHERE)
        return
    there = sorted(name for name in {*names, SETTINGS} if (folder / name).exists() or (folder / name).is_symlink())
    if there and not _is_evaluation(folder):
        why = f"it holds files that no evaluation wrote: {', '.join(there)}"
        raise UsageError(f"Can't write to {folder}.", why, _ELSEWHERE)


def _is_evaluation(folder: Path) -> bool:
    try:
        values = json.loads(read_plain(folder / SETTINGS))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and "format" in values


@contextmanager
def claimed(folder: Path, settings: Config, *, outputs: Sequence[str]) -> Iterator[None]:
    """Hold an output folder for one evaluation: lock it, and write the settings or compare them with those there.

    Args:
        folder: Output folder; made if it isn't there.
        settings: Settings of the evaluation, with a field `format`.
        outputs: Names of files and folders whose presence means that an evaluation has begun.

    Raises:
        UsageError: if another process holds the folder, or it holds an evaluation with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        why, fix = "two processes would mix their files", "wait for it, or choose another folder with -o"
        raise UsageError(f"Another process is evaluating in {folder}.", why, fix) from None
    try:
        _claim(folder, settings, [name for name in outputs if (folder / name).exists()])
        yield
    finally:
        lock.release()


def claim_shared(folder: Path, settings: Config, *, outputs: Sequence[str]) -> None:
    """Claim a folder for several processes of one evaluation: write the settings or compare them, one at a time.

    Args:
        folder: Output folder; made if it isn't there.
        settings: Settings of the evaluation, with a field `format`.
        outputs: Names of files and folders whose presence means that an evaluation has begun.

    Raises:
        UsageError: if the folder holds an evaluation with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):
        there = [name for name in outputs if (folder / name).exists()]
        _claim(folder, settings, [*there, SETTINGS] if (folder / SETTINGS).is_file() else there)


def _claim(folder: Path, settings: Config, there: Sequence[str]) -> None:
    path = folder / SETTINGS
    if not there:
        write_text(path, settings.dump())
        return
    if not path.is_file():
        why = f"it has {' and '.join(there)}, but no {SETTINGS}"
        raise UsageError(f"{folder} holds something else.", why, _ELSEWHERE)
    now = settings.model_dump(mode="json")
    if read_json(path).get("format") != now["format"]:
        raise UsageError(f"{folder} is of an earlier version.", "its files have another format", _ELSEWHERE)
    before = type(settings).load(path).model_dump(mode="json")
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        why = "; ".join(f"{name} was {json.dumps(before[name])}, now {json.dumps(now[name])}" for name in changed)
        raise UsageError(f"{folder} holds another evaluation.", why, _ELSEWHERE)


class Lines:
    """A file of JSON lines that resumes where the progress was last saved; lines written after that are cut off.

    Args:
        path: File to append to.
        length: Bytes of the file that count; the rest is cut off.

    Raises:
        UsageError: if the file is shorter.
    """

    def __init__(self, path: Path, length: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            why = f"it has {size} of the {length} bytes that were written"
            raise UsageError(f"{path} is damaged.", why, f"remove {path.parent} and begin again")
        self._file = path.open("ab")
        self._file.truncate(length)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(line).encode() + b"\n")

    def flush(self) -> int:
        """Flush every line to disk and return the length of the file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a complete file."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
