"""How far an evaluation has come: saved whole, so that one that was killed goes on with the same sums."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction.accumulators import Tally
from bitvar.files import atomic_path
from bitvar.weights.tensors import write_tensors

FILE: Final = "progress.safetensors"
REFUSED: Final = "refused.jsonl"
IMAGES: Final = "images.jsonl"


@dataclass
class Progress:
    """What has been gone through.

    Attributes:
        read: entries, refused ones included.
        names: a digest of all their names in order, which tells whether the images are still the same.
        lengths: bytes of each file of lines that belong to these entries.
        refused: how many were refused, by reason.
        tallies: by size and contender; "" is the originals.
    """

    read: int = 0
    names: str = ""
    lengths: dict[str, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """Count an entry in."""
        self.read += 1
        self.names = hashlib.sha256(f"{self.names}\n{name}".encode("utf-8", "surrogatepass")).hexdigest()

    def tally(self, size: str, contender: str, width: int) -> Tally:
        """That of a contender at a size; a new one the first time."""
        return self.tallies.setdefault((size, contender), Tally(width))

    def save(self, folder: Path) -> None:
        """Replace what the folder has, at once."""
        keys = list(self.tallies)
        tensors = {f"{i}.{name}": t for i, key in enumerate(keys) for name, t in self.tallies[key].tensors().items()}
        state = {
            "read": self.read,
            "names": self.names,
            "lengths": self.lengths,
            "refused": self.refused,
            "tallies": keys,
        }
        with atomic_path(folder / FILE) as temporary:
            write_tensors(tensors, temporary, metadata={"state": json.dumps(state)})

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        """What `save` wrote; a fresh start where there is nothing.

        Raises:
            UsageError: for a damaged file.
        """
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            with safe_open(path, framework="pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            parts: list[dict[str, Tensor]] = [{} for _ in state["tallies"]]
            for name, tensor in tensors.items():
                i, _, sum_name = name.partition(".")
                parts[int(i)][sum_name] = tensor
            keys = ((size, contender) for size, contender in state["tallies"])
            tallies = {key: Tally.from_tensors(part) for key, part in zip(keys, parts, strict=True)}
            return cls(state["read"], state["names"], state["lengths"], Counter(state["refused"]), tallies)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            why = (str(error).splitlines() or [repr(error)])[0]
            raise UsageError(f"{path} is damaged.", why, f"remove {folder} and begin again") from None


class Lines:
    """A file of JSON lines that goes on where its progress was saved; what was written after that is cut off.

    Args:
        path: the file.
        length: bytes that count; more are cut off.

    Raises:
        UsageError: if there are fewer.
    """

    def __init__(self, path: Path, length: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            why = f"it has {size} of the {length} bytes that were written"
            raise UsageError(f"{path} is damaged.", why, f"remove {path.parent} and begin again")
        self._file = path.open("ab")
        self._file.truncate(length)

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")

    def flush(self) -> int:
        """Have every line on the disk; the file's length then."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that is whole."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
