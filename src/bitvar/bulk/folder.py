"""The output folder of a bulk run: which images are there, who draws which, and how an image gets its name.

An image is written in three steps: whole under a hidden name, then its line in the ledger, then its own name. The line
is what counts. A process that is killed before it leaves nothing that anyone would take for an image; one that is
killed after it leaves an image that the next process only has to name.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from bitvar.bulk.ledger import LEDGER, Ledger, LedgerLine
from bitvar.bulk.work import SETTINGS, WorkItem
from bitvar.errors import UsageError
from bitvar.files import flush
from bitvar.pipeline.file_names import give_name

HIDDEN: Final = ".bulk"
"""Hidden folder for locks and unnamed images."""


@dataclass(frozen=True)
class PlannedImage:
    """A work item, with the address of its image and the number of its group: those of equal settings."""

    item: WorkItem
    address: str
    group: int


class OutputFolder:
    """A folder that one or several processes draw into.

    Args:
        path: The folder; made if it isn't there.

    Raises:
        UsageError: A file is in the folder's place, or the folder has a ledger that no run of ours wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hidden = path / HIDDEN
        self.ledger = Ledger(path, self._hidden)
        self.ledger.require_no_link()
        require_marked(path, HIDDEN, SETTINGS)
        try:
            for name in ("claims", "partial"):
                (self._hidden / name).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"Can't write to {path}.", "a file is in its place", "choose another folder") from None

    def require_own(self, images: Iterable[PlannedImage]) -> None:
        """Refuse to draw where another image is, or one that was altered.

        Raises:
            UsageError: A file is there that the ledger doesn't know, or knows by another address or length, or a file
                is where a folder has to be.
        """
        lines, folders = self.ledger.refresh(), {self.path}
        for planned in images:
            path = self.path / planned.item.file
            _require_folders(path, folders)
            if planned.item.file not in lines and os.path.lexists(path):  # another process may just have named it
                lines = self.ledger.refresh()
            _require_same(planned, lines.get(planned.item.file), self.path)

    def has(self, planned: PlannedImage) -> bool:
        """Whether the image is there, as far as `ledger.refresh` has read."""
        line = self.ledger.known.get(planned.item.file)
        return line is not None and line.address == planned.address and (self.path / planned.item.file).is_file()

    def claim(self, planned: PlannedImage) -> FileLock | None:
        """Reserve an image for this process, until the lock is released or the process ends; None if another has it."""
        lock = FileLock(self._hidden / "claims" / f"{_digest(planned.item.file)}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    def release(self, planned: PlannedImage, claim: FileLock) -> None:
        """Give a claim back. Whoever claims the image next reads the ledger first."""
        with contextlib.suppress(OSError):  # Windows keeps the file of a held lock
            (self._hidden / "claims" / f"{_digest(planned.item.file)}.lock").unlink()
        claim.release()

    def finish(self, planned: PlannedImage) -> bool:
        """Name an image whose process was killed between its line and its name. The image must be claimed.

        Returns:
            Whether the image is there now.
        """
        line, partial = self.ledger.known.get(planned.item.file), self._partial(planned)
        if line is None or line.address != planned.address or not partial.is_file():
            return self.has(planned)
        if hashlib.sha256(partial.read_bytes()).hexdigest() == line.sha256 and not self.has(planned):
            self._name(planned)
        partial.unlink(missing_ok=True)
        return self.has(planned)

    def keep(self, images: Sequence[tuple[PlannedImage, bytes, LedgerLine]]) -> None:
        """Write images that are claimed, with their lines.

        Raises:
            UsageError: Something else has written a file of that name meanwhile.
        """
        for planned, data, _ in images:
            self._partial(planned).write_bytes(data)
            flush(self._partial(planned))
        self.ledger.append([line for _, _, line in images])
        for planned, _, _ in images:
            self._name(planned)
        for parent in {(self.path / planned.item.file).parent for planned, _, _ in images}:
            flush(parent)
        self.ledger.refresh()

    def _partial(self, planned: PlannedImage) -> Path:
        return self._hidden / "partial" / _digest(planned.item.file)

    def _name(self, planned: PlannedImage) -> None:
        target = self.path / planned.item.file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not give_name(self._partial(planned), target):
            raise UsageError(
                f"{target} is in the way.", "another program wrote it meanwhile", "move it away, try again"
            )
        self._partial(planned).unlink(missing_ok=True)


def require_marked(folder: Path, *marks: str) -> None:
    """Refuse a folder with a file that is named as our ledger, but without any of the marks of a run of ours.

    Args:
        folder: Output folder; it needn't be there.
        marks: Names that a run writes before its ledger.

    Raises:
        UsageError: The folder isn't known to be ours.
    """
    if os.path.lexists(folder / LEDGER) and not any(os.path.lexists(folder / mark) for mark in marks):
        missing = " or ".join(marks)
        why = f"it has {LEDGER} without {missing}, so it isn't a run of ours, or has lost its settings"
        raise UsageError(f"Can't draw into {folder}.", why, f"choose another folder, or restore {missing}")


def _require_folders(path: Path, known: set[Path]) -> None:
    """Refuse a path with a file where a folder has to be. `known` has the output folder, and what was looked at."""
    parent = path.parent
    while parent not in known:
        known.add(parent)
        if os.path.lexists(parent) and not parent.is_dir():
            why = f"a folder of that name is needed for {path.name}"
            raise UsageError(f"{parent} is in the way.", why, "move it away, or choose another folder")
        parent = parent.parent


def _digest(file: str) -> str:
    return hashlib.sha256(file.encode()).hexdigest()[:32]


def _require_same(planned: PlannedImage, line: LedgerLine | None, folder: Path) -> None:
    path = folder / planned.item.file
    there = path.stat().st_size if path.is_file() else None
    if line is None:
        if there is not None or path.is_symlink() or path.exists():
            why = "the ledger of this folder doesn't list it, so it isn't known how it was made"
            raise UsageError(f"{path} is in the way.", why, "move it away, or choose another folder")
        return
    if line.address != planned.address:
        fix = "choose another folder, or delete the image and its line in images.jsonl"
        raise UsageError(f"{path} was made with other settings.", _difference(planned.item, line), fix)
    if there is not None and there != line.bytes:
        why = f"it has {there} bytes, and the ledger says {line.bytes}"
        raise UsageError(f"{path} was altered.", why, "delete it to have it drawn again, or choose another folder")


def _difference(item: WorkItem, line: LedgerLine) -> str:
    """Say how an image differs from the one that is there, as far as its line tells."""
    if item.prompt != line.prompt:
        return f"its prompt was {line.prompt!r}, now {item.prompt!r}"
    if item.seed != line.seed:
        return f"its seed was {line.seed}, now {item.seed}"
    return "prompt and seed are the same; the model, its precision or device, or a setting is not"
