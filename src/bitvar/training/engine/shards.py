"""Sharded tensors in safetensors files, which any number of ranks can read back.

`model.safetensors` holds full tensors; `model-00002-of-00004.safetensors` holds the rows of one of four shards, and its
header says where they start. Nothing is pickled, unlike the index of PyTorch's own distributed checkpoints.
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
    """Consecutive rows of a tensor with `total` rows, from row `start` on.

    A scalar has no rows: `values` is the scalar itself, and `start` and `total` are 0.
    """

    values: Tensor
    start: int
    total: int


def local_rows(tensor: Tensor) -> Rows:
    """Return this rank's rows of a tensor, without copying them."""
    if not isinstance(tensor, DTensor):
        return Rows(tensor.detach(), 0, tensor.shape[0] if tensor.ndim else 0)
    local = tensor.to_local().detach()
    mesh, placement = tensor.device_mesh, tensor.placements[-1]
    if not (isinstance(placement, Shard) and placement.dim == 0):
        return Rows(local, 0, tensor.shape[0] if tensor.ndim else 0)
    per_rank = -(-tensor.shape[0] // mesh.size(-1))  # as torch.chunk splits them
    return Rows(local, min(per_rank * mesh.get_local_rank(mesh.ndim - 1), tensor.shape[0]), tensor.shape[0])


def shard_name(group: str, shard: int, shards: int) -> str:
    """Return the file name of one shard of a group of tensors, where `shard` counts from 0."""
    return f"{group}.safetensors" if shards == 1 else f"{group}-{shard + 1:05d}-of-{shards:05d}.safetensors"


def write_rows(path: Path, tensors: Mapping[str, Rows]) -> None:
    """Write the file of one shard, leaving out tensors of which the shard has no rows."""
    kept = {name: rows for name, rows in tensors.items() if rows.values.numel() or rows.total == 0}
    places = {name: [rows.start, rows.total] for name, rows in kept.items()}
    write_tensors({name: rows.values.contiguous() for name, rows in kept.items()}, path, {"rows": json.dumps(places)})


class ShardedTensors:
    """Reader of a group of tensors in a folder, which reads only the rows that are asked for.

    Args:
        folder: Folder of the files.
        group: Name of the group, such as "model".

    Raises:
        WeightsError: If the group or one of its shards is missing, or a file can't be read.
    """

    def __init__(self, folder: Path, group: str) -> None:
        single = folder / f"{group}.safetensors"
        paths = [single] if single.is_file() else sorted(folder.glob(f"{group}-*-of-*.safetensors"))
        numbers = [_NUMBERED.search(path.name) for path in paths]
        if not paths or any(n is not None and int(n[2]) != len(paths) for n in numbers):
            why = f"it has {', '.join(path.name for path in paths) or 'none of the files'}"
            raise WeightsError(f"{folder} has no complete set of {group!r} tensors.", why, "restore the files")
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
        """Read a full tensor."""
        return self._rows(name, 0, self._totals[name])

    def read_into(self, name: str, tensor: Tensor) -> None:
        """Read this rank's rows of a tensor into `tensor`.

        Raises:
            WeightsError: If the stored tensor is missing, incomplete, or of another shape.
        """
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
                why = f"{name} has shape {list(rows.shape)} there, not {list(target.values.shape)}"
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
