"""The ledger of a folder of images: `images.jsonl`, one line for each image that was made.

Processes append under a lock, so a line is never mixed with another. A kill can tear the last line alone; readers
ignore what has no line end, and the next writer cuts it off. This module knows nothing about models or drawing.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from filelock import FileLock
from pydantic import Field

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import flush

LEDGER: Final = "images.jsonl"
"""Name of the ledger in its folder."""

_PIECE: Final = 1 << 12
_BEGINNING: Final = b'{"file": "'
"""The beginning of every line, by which the torn end of one is told from another program's text."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LedgerLine(Config):
    """One image that was made.

    Attributes:
        file: Path relative to the folder, with slashes.
        sha256: Digest of the file.
        bytes: Length of the file.
        prompt: Text that was drawn.
        seed: Seed of the image.
        model: Name of the model and the first digits of its digest.
        settings: The other values of the record inside the file (`ImageRecord`).
        seconds: Time of the image: its batch's, shared equally.
        batch: Number of images that were drawn together.
        address: Digest of everything that decides the image (`address_of`).
        note: What the work item carried.
    """

    file: str
    sha256: Sha256
    bytes: int
    prompt: str
    seed: int
    model: str | None
    settings: dict[str, Any]
    seconds: float
    batch: int
    address: Sha256
    note: dict[str, Any] = Field(default_factory=dict)


class Ledger:
    """The ledger of one folder, as this process knows it.

    Args:
        folder: Folder of the images.
        hidden: Folder on the same disk for the lock, and for a new ledger until it is whole.
    """

    def __init__(self, folder: Path, hidden: Path) -> None:
        self.path = folder / LEDGER
        self._lock = FileLock(hidden / "ledger.lock", poll_interval=0.01)
        self._rewritten = hidden / "ledger.partial"
        self._lines: dict[str, LedgerLine] = {}
        self._count, self._read, self._tail = 0, 0, b""  # lines and bytes that were read, and the last of the bytes

    @property
    def known(self) -> Mapping[str, LedgerLine]:
        """The line of each file, as of the last `refresh`."""
        return self._lines

    def require_no_link(self) -> None:
        """Refuse a ledger that is a symbolic link: what it points to isn't ours to change.

        Raises:
            UsageError: It is one.
        """
        if self.path.is_symlink():
            why = "it is a symbolic link, and a run changes the file that it points to"
            raise UsageError(f"Can't write to {self.path}.", why, "put the file itself there, or choose another folder")

    def refresh(self) -> Mapping[str, LedgerLine]:
        """Read what others have written since. Returns the line of each file; a later line replaces an earlier one.

        Raises:
            UsageError: A line is damaged, or the end is another program's text.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._read - len(self._tail))
                if file.read(len(self._tail)) != self._tail:  # another process has arranged the lines
                    self._forget()
                    file.seek(0)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return self._lines
        whole = data[: data.rfind(b"\n") + 1]
        _require_torn(data[len(whole) :], self.path)
        for line in _parse(whole, self.path, after=self._count):
            self._lines[line.file] = line
            self._count += 1
        self._read += len(whole)
        self._tail = (self._tail + whole)[-_PIECE:]
        return self._lines

    def append(self, lines: Sequence[LedgerLine]) -> None:
        """Add lines, and flush them to the disk. The torn end of a line of ours is cut off.

        Raises:
            UsageError: The ledger is a symbolic link, or its end is another program's text.
        """
        self.require_no_link()
        data = b"".join(_encode(line) for line in lines)
        with self._lock, self.path.open("a+b") as file:
            length = file.seek(0, os.SEEK_END)
            whole, new = _end_of_lines(file, length), length == 0
            if whole < length:  # a process was killed while it wrote
                file.seek(whole)
                _require_torn(file.read(), self.path)
                file.truncate(whole)
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            flush(self.path.parent)

    def arrange(self, notes: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring the lines into the order of these files, each once; lines of other files stay in front.

        Args:
            notes: The note of each file, which replaces the one that its line has.
        """
        with self._lock:
            lines = self.refresh()
            arranged = [line for name, line in lines.items() if name not in notes]
            for name, note in notes.items():
                if name in lines:
                    arranged.append(lines[name].model_copy(update={"note": dict(note)}))
            data = b"".join(map(_encode, arranged))
            if not lines or data == self.path.read_bytes():
                return
            self._rewritten.write_bytes(data)
            flush(self._rewritten)
            self._rewritten.replace(self.path)
            flush(self.path.parent)

    def _forget(self) -> None:
        self._lines, self._count, self._read, self._tail = {}, 0, 0, b""


def read_ledger(folder: Path) -> list[LedgerLine]:
    """Read the ledger of a folder: one line for each image, in order. A run may be going on.

    Raises:
        UsageError: There is no ledger, or a line is damaged.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise UsageError(f"There is no {path}.", "no bulk run has written to this folder", "check the path")
    return list(Ledger(folder, folder).refresh().values())


def _encode(line: LedgerLine) -> bytes:
    return json.dumps(line.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n"


def _parse(data: bytes, path: Path, *, after: int) -> Iterator[LedgerLine]:
    for number, text in enumerate(data.split(b"\n")[:-1], after + 1):
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            yield LedgerLine.parse(values, source="it")
        except (ValueError, RecursionError) as error:
            why = f"line {number}: {str(error).splitlines()[0]}"
            fix = "restore the file, or delete that line and its image to have it drawn again"
            raise UsageError(f"{path} is damaged.", why, fix) from None


def _require_torn(end: bytes, path: Path) -> None:
    """Refuse an end without a line break that is no beginning of a line of ours. A power cut may leave zeros."""
    torn = end.rstrip(b"\0")
    if not torn.startswith(_BEGINNING) and not _BEGINNING.startswith(torn):
        why = "its end is not a line of a ledger, so another program wrote it"
        raise UsageError(f"{path} is not a run's ledger.", why, "choose another folder, or restore the file")


def _end_of_lines(file: BinaryIO, length: int) -> int:
    """Find the end of the last whole line of a file."""
    end = length
    while end > 0:
        start = file.seek(max(0, end - _PIECE))
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
