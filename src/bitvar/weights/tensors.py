"""Safetensors files, single or in shards with an index: written, read and checked."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitvar.errors import WeightsError
from bitvar.files import is_lfs_pointer, named_disk_errors
from bitvar.finite import cast_weights, require_sound_weights
from bitvar.weights.digests import LFS_FIX, is_inside, read_object

MAX_SHARD_BYTES: Final = 5_000_000_000
WEIGHTS: Final = "model.safetensors"


def save_tensors(tensors: dict[str, Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as safetensors, with an index if they take more than one file."""
    from huggingface_hub import split_torch_state_dict_into_shards  # only saving needs it

    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_bytes
    )
    for filename, names in split.filename_to_tensors.items():
        write_tensors({name: tensors[name].contiguous() for name in names}, folder / filename)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote, and refuse unsound weights.

    Raises:
        WeightsError: for weights that are missing, unreadable, not floating point, or not finite.
    """
    index = folder / f"{WEIGHTS}.index.json"
    names = sorted(set(read_weight_map(index).values())) if index.is_file() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_tensors(folder / name)
    require_sound_weights(tensors, str(folder))
    return tensors


def assign_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Give a model its tensors, converted to a dtype and device.

    Args:
        model: Model, which may be on the meta device.
        tensors: Tensors by the names of the model's own.
        source: Name of the folder in errors.
        dtype: Precision of the model.
        device: Device of the model.

    Raises:
        WeightsError: for missing, unexpected or misshapen tensors, or values that overflow in `dtype`.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WeightsError(
            f"The weights in {source} don't fit their config.json.",
            f"{len(wrong)} tensors are missing, unexpected or misshapen: {', '.join(wrong[:20])}",
            "restore the folder",
        )
    model.load_state_dict(cast_weights(tensors, source, dtype=dtype, device=device), assign=True)


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's own tensors, detached, by their plain names.

    PEFT names the weight of an adapted layer `LAYER.base_layer.weight` and adds tensors `LAYER.lora_*`. The latter are
    left out; adapters fused into the weights are part of the result.
    """
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items() if ".lora_" not in key}
    return {key.replace(".base_layer.", "."): tensor for key, tensor in tensors.items()}


def read_weight_map(index: Path) -> dict[str, str]:
    """Read from an index of shards which file of its folder holds which tensor.

    Raises:
        WeightsError: for an index that is damaged or leads out of the folder.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_bare_name, weight_map.values())):
        why = "it has no 'weight_map' from tensors to files of the same folder"
        raise WeightsError(f"{index} is no index of shards.", why, "download it again")
    return weight_map


def _is_bare_name(shard: object) -> bool:
    return isinstance(shard, str) and is_inside(shard) and Path(shard).name == shard


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: for a file that is missing or unreadable.
    """
    require_weights_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"Can't read the weights {path}.", str(error), "download or convert the model again"
        ) from None


def require_weights_file(path: Path) -> None:
    """Require a regular file before a library opens it.

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
        raise WeightsError(f"Can't read the weights {path}.", why, LFS_FIX)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the default permissions of a new file.

    Raises:
        OSError: if the disk fails, with its errno and the file's name.
    """
    with named_disk_errors(path):
        with path.open("wb") as file:  # the library would set permissions of its own
            mode = os.fstat(file.fileno()).st_mode
        save_file(dict(tensors), path, None if metadata is None else dict(metadata))
        path.chmod(stat.S_IMODE(mode))
