"""Tensors of which every rank holds some rows, in safetensors files that any number of ranks can read again.

`model.safetensors` holds whole tensors; `model-00002-of-00004.safetensors` the rows of one of four shards, with where
they begin in its header. No pickle anywhere, which PyTorch's own distributed checkpoints have as their index.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from bitvar.errors import WeightsError
from bitvar.weights.tensors import write_tensors

_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


class Rows(NamedTuple):
    """Consecutive rows of a tensor of `total` rows, from `start` on; all of it, and 0 of 0, for one without rows."""

    values: Tensor
    start: int
    total: int


def local_rows(tensor: Tensor) -> Rows:
    """What this rank holds of a tensor: not a copy."""
    if not isinstance(tensor, DTensor):
        return Rows(tensor.detach(), 0, tensor.shape[0] if tensor.ndim else 0)
    local = tensor.to_local().detach()
    mesh, placement = tensor.device_mesh, tensor.placements[-1]
    if not (isinstance(placement, Shard) and placement.dim == 0):
        return Rows(local, 0, tensor.shape[0] if tensor.ndim else 0)
    per_rank = -(-tensor.shape[0] // mesh.size(-1))  # as torch.chunk parts them
    return Rows(local, min(per_rank * mesh.get_local_rank(mesh.ndim - 1), tensor.shape[0]), tensor.shape[0])


def shard_name(group: str, shard: int, shards: int) -> str:
    """The file of one shard of a group of tensors, `shard` counted from 0."""
    return f"{group}.safetensors" if shards == 1 else f"{group}-{shard + 1:05d}-of-{shards:05d}.safetensors"


def write_rows(path: Path, tensors: Mapping[str, Rows]) -> None:
    """Write one shard's file; empty pieces are left out."""
    kept = {name: rows for name, rows in tensors.items() if rows.values.numel() or rows.total == 0}
    places = {name: [rows.start, rows.total] for name, rows in kept.items()}
    write_tensors({name: rows.values.contiguous() for name, rows in kept.items()}, path, {"rows": json.dumps(places)})


class ShardedTensors:
    """A group of tensors of a folder, read by rows.

    Raises:
        WeightsError: if there is no such group, a shard of it is missing, or a file can't be read.
    """

    def __init__(self, folder: Path, group: str) -> None:
        single = folder / f"{group}.safetensors"
        paths = [single] if single.is_file() else sorted(folder.glob(f"{group}-*-of-*.safetensors"))
        numbers = [_NUMBERED.search(path.name) for path in paths]
        if not paths or any(n is not None and int(n[2]) != len(paths) for n in numbers):
            why = f"it has {', '.join(path.name for path in paths) or 'no file of them'}"
            raise WeightsError(f"{folder} has no whole set of {group!r} tensors.", why, "restore the files")
        self.folder, self.group = folder, group
        self._pieces: dict[str, list[tuple[Any, int, int]]] = {}
        self._totals: dict[str, int] = {}
        try:
            for path in paths:
                self._index(safe_open(path, "pt"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"Can't read {group!r} in {folder}.", str(error), "restore the files") from None

    def _index(self, file: Any) -> None:
        places = json.loads((file.metadata() or {}).get("rows", "{}"))
        for name in file.keys():  # noqa: SIM118  (a file of tensors, not a dict)
            shape = file.get_slice(name).get_shape()
            start, total = places.get(name, [0, shape[0] if shape else 0])
            count = shape[0] if shape else 0
            if type(start) is not int or type(total) is not int or not 0 <= start <= start + count <= total:
                raise ValueError(f"{name} has {count} rows from {start!r} of {total!r}")
            self._pieces.setdefault(name, []).append((file, start, count))
            self._totals[name] = total

    @property
    def names(self) -> list[str]:
        return list(self._pieces)

    def full_tensor(self, name: str) -> Tensor:
        """A tensor in one piece."""
        return self._rows(name, 0, self._totals[name])

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Fill what this rank holds of a tensor."""
        target = local_rows(tensor)
        length = target.values.shape[0] if target.values.ndim else 0
        if name not in self._pieces or self._totals[name] != target.total:
            found = self._totals.get(name, "none")
            raise WeightsError(
                f"{self.folder} holds another model.", f"{name} has {found} rows there", "use the same sizes"
            )
        if length or not target.total:
            rows = self._rows(name, target.start, target.start + length)
            if rows.shape != target.values.shape:
                why = f"{name} is of shape {list(rows.shape)} there, not {list(target.values.shape)}"
                raise WeightsError(f"{self.folder} holds another model.", why, "use the same sizes")
            target.values.copy_(rows)

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        if self._totals[name] == 0:
            return self._pieces[name][0][0].get_tensor(name)
        found, reached = [], start
        for file, first, length in sorted(self._pieces[name], key=lambda piece: piece[1]):
            begin, end = max(reached, first), min(stop, first + length)
            if begin < end and begin == reached:
                found.append(file.get_slice(name)[begin - first : end - first])
                reached = end
        if reached != stop:
            why = f"{name} has no row {reached}"
            raise WeightsError(f"{self.folder} is incomplete.", why, "restore the files")
        return torch.cat(found) if len(found) > 1 else found[0]
