"""Progress of an evaluation of reconstruction, saved atomically, so that an interrupted one resumes its sums."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction.accumulators import MetricAccumulator
from bitvar.files import atomic_path
from bitvar.weights.digests import write_tensors

FILE: Final = "progress.safetensors"
REJECTED: Final = "rejected.jsonl"
IMAGES: Final = "images.jsonl"


@dataclass
class Progress:
    """The records that have been read, and the sums over them.

    Attributes:
        read: Number of records, rejected ones included.
        names: Digest of all their names in order, which tells whether the images are still the same.
        lengths: Bytes of each file of lines that belong to these records.
        rejected: Number of rejected records by reason.
        accumulators: Sums by size and candidate; "" stands for the originals.
    """

    read: int = 0
    names: str = ""
    lengths: dict[str, int] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    accumulators: dict[tuple[str, str], MetricAccumulator] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """Count a record."""
        self.read += 1
        self.names = hashlib.sha256(f"{self.names}\n{name}".encode("utf-8", "surrogatepass")).hexdigest()

    def accumulator(self, size: str, candidate: str, width: int) -> MetricAccumulator:
        """Return the accumulator of a candidate at a size, a new one the first time."""
        return self.accumulators.setdefault((size, candidate), MetricAccumulator(width))

    def save(self, folder: Path) -> None:
        """Replace the progress saved in a folder, atomically."""
        keys = list(self.accumulators)
        tensors = {
            f"{i}.{name}": t for i, key in enumerate(keys) for name, t in self.accumulators[key].tensors().items()
        }
        state = {
            "read": self.read,
            "names": self.names,
            "lengths": self.lengths,
            "rejected": self.rejected,
            "accumulators": keys,
        }
        with atomic_path(folder / FILE) as temporary:
            write_tensors(tensors, temporary, metadata={"state": json.dumps(state)})

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        """Load what `save` wrote; new progress if there is none.

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
            sums: list[dict[str, Tensor]] = [{} for _ in state["accumulators"]]
            for name, tensor in tensors.items():
                i, _, sum_name = name.partition(".")
                sums[int(i)][sum_name] = tensor
            keys = ((size, candidate) for size, candidate in state["accumulators"])
            accumulators = {key: MetricAccumulator.from_tensors(own) for key, own in zip(keys, sums, strict=True)}
            return cls(state["read"], state["names"], state["lengths"], Counter(state["rejected"]), accumulators)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            why = (str(error).splitlines() or [repr(error)])[0]
            raise UsageError(f"{path} is damaged.", why, f"remove {folder} and begin again") from None
