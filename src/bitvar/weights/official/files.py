"""Official checkpoint files of every format: reading them into a flat state dict, and writing one.

`official.names` translates the names of the tensors. Files that are read are never modified, moved or deleted, and no
pickle can run code.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bitvar.errors import UsageError, WeightsError
from bitvar.file_kinds import require_file_kind
from bitvar.files import atomic_path
from bitvar.weights.tensors import load_tensors, read_weight_map, require_weights_file, write_tensors

_PICKLES: Final = (".pth", ".pt", ".bin")
_NESTINGS: Final[tuple[tuple[str, ...], ...]] = (("vae",), ("trainer", "gpt_fsdp"))
_MAX_NESTING: Final = 4
_MAX_TUPLES: Final = 50_000
"""A pickle has four or five tuples per tensor; the largest official file has 6,200."""

_COMPANIONS: Final = {
    "vae": {"args", "epoch", "iter", "optimizer"},
    "trainer": {"args", "gpt_training", "arch", "epoch", "iter", "acc_str", "milestones", "optimizer"},
    "gpt_fsdp": {"config", "vae_local", "gpt_ema_fsdp", "gpt_fsdp_opt", "gpt_opt_scaler"},
}
"""Keys beside the tensors in training checkpoints that are not part of the model. Any other key is an error.

The names are those that the official `CKPTSaver` and `InfinityTrainer.state_dict` write. The tokenizer in `vae_local`
and the average in `gpt_ema_fsdp` are left out too: the official code samples with the weights of `gpt_fsdp`.
"""

_WRAPPERS: Final = ("state_dict", "model_state_dict", "model", "module", "ema", "model_ema", "ema_state_dict")
"""Keys under which other trainers store a state dict. The first one present is read, so averages come last."""

_IGNORED: Final = frozenset(
    {"args", "callbacks", "config", "epoch", "global_step", "hparams", "hparams_name", "hyper_parameters", "iter"}
    | {"iteration", "loops", "lr_scheduler", "lr_scheduler_state_dict", "lr_schedulers", "name", "optimizer"}
    | {"optimizer_state_dict", "optimizer_states", "pytorch-lightning_version", "scaler", "scheduler", "step", "steps"}
)
"""Keys that other trainers store beside the state dict, which are left out."""

_INNER: Final = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LEADING: Final = ("module.", "model.")
_AVERAGED: Final = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps beside the weights."""


def _ignore(line: str) -> None:
    pass


def read_official(path: Path, *, log: Callable[[str], None] = _ignore) -> dict[str, Tensor]:
    """Read the tensors of an official checkpoint under their own names, lazily where the format allows it.

    Args:
        path: A `.pth`, `.pt` or `.bin` pickle, flat or nested under `vae`, `trainer` / `gpt_fsdp`, `state_dict`,
            `model` or `ema`; a `.safetensors` file; or a folder of shards with one `*.index.json`. Prefixes added by
            wrappers of PyTorch (`module.`, `_orig_mod.`, `_fsdp_wrapped_module.`) are removed.
        log: Function called with a line about everything that is left out, or chosen over an alternative.

    Raises:
        WeightsError: for a file that is missing, unreadable, truncated, or contains anything but tensors.
    """
    if path.is_dir():
        return without_prefixes(_read_shards(path, log), str(path), log)
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint {path}.", fix="check the path")
    return without_prefixes(_read_file(path, log), str(path), log)


def without_prefixes(
    tensors: Mapping[str, Tensor], source: str, log: Callable[[str], None] = _ignore
) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers around a model add to the names of its tensors.

    Raises:
        WeightsError: if two tensors would get the same name.
    """
    if _AVERAGED in tensors and all(name == _AVERAGED or name.startswith("module.") for name in tensors):
        log(f"{source}: left out {_AVERAGED}, the number of models averaged")
        tensors = {name: tensor for name, tensor in tensors.items() if name != _AVERAGED}
    renamed = {name: _INNER.sub("", name) for name in tensors}
    while prefix := next((p for p in _LEADING if renamed and all(n.startswith(p) for n in renamed.values())), None):
        renamed = {name: inner.removeprefix(prefix) for name, inner in renamed.items()}
    if len(set(renamed.values())) < len(renamed):
        raise WeightsError(
            f"{source} holds two tensors with the same name.",
            "they differ only in the prefixes that wrappers add, such as `module.` and `_orig_mod.`",
            "save the state dict of the model itself",
        )
    return {renamed[name]: tensor for name, tensor in tensors.items()}


def write_official(tensors: Mapping[str, Tensor], path: Path, *, nesting: tuple[str, ...] = ()) -> None:
    """Write a checkpoint atomically.

    Args:
        tensors: Tensors under official names.
        path: File to write, `.pth` (in the format of `torch.save`) or `.safetensors`.
        nesting: Keys to nest the tensors under, outermost first, such as `("vae",)` in tokenizer files. For `.pth`
            only.

    Raises:
        UsageError: for another suffix, or nested safetensors.
    """
    if path.suffix not in (".pth", ".safetensors") or (nesting and path.suffix != ".pth"):
        raise UsageError(
            f"Can't write {path}.", "official files are .pth, or flat .safetensors", "choose one of these suffixes"
        )
    compact = {name: _compact(tensor) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            write_tensors(compact, temporary)
            return
        nested: dict[str, Any] = compact
        for key in reversed(nesting):
            nested = {key: nested}
        torch.save(nested, temporary)


def _read_file(path: Path, log: Callable[[str], None]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        require_file_kind(path, "safetensors")
        return load_tensors(path)
    if path.suffix not in _PICKLES:
        raise WeightsError(
            f"{path} is not a checkpoint.",
            f"its name ends in {path.suffix or 'nothing'}",
            f"give a {', '.join(_PICKLES)} or .safetensors file, or a folder with an index",
        )
    require_weights_file(path)
    require_file_kind(path, "torch")
    return _plain(_unnest(_load_pickle(path), path, log), path)


def _load_pickle(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise _unreadable(path, "it is not a zip archive as torch.save writes: truncated, or not a checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        if packed or unpacked > path.stat().st_size:
            raise ValueError("its members are compressed or overlap, which torch.save never does")
        _check_nesting(path)
        return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} was not loaded.",
            "it holds Python objects other than tensors, which could run code when read",
            "if you trust it, load it where it was made, and save its state dict alone with torch.save",
        ) from None
    # a damaged archive raises errors of many types, none of them documented
    except Exception as error:
        raise _unreadable(path, (str(error) or repr(error)).splitlines()[0]) from None


def _check_nesting(path: Path) -> None:
    """Refuse a pickle that could nest tuples 100,000 deep: hashing them recurses in C and would crash Python."""
    with zipfile.ZipFile(path) as archive:
        pickled = [archive.read(member) for member in archive.infolist() if member.filename.endswith("/data.pkl")]
    count = 0
    for opcode, _, _ in pickletools.genops(b"".join(pickled)):
        count += opcode.name.startswith("TUPLE")
        if count > _MAX_TUPLES:
            raise ValueError(f"its pickle makes more than {_MAX_TUPLES:,} tuples")


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(f"Can't read the checkpoint {path}.", why, "download it again")


def _unnest(value: Any, path: Path, log: Callable[[str], None]) -> Any:
    for _ in range(_MAX_NESTING):
        inner = _unwrap(_official_part(value, path), path, log)
        if inner is value:
            break
        value = inner
    return value


def _official_part(value: Any, path: Path) -> Any:
    for nesting in _NESTINGS:
        if not (isinstance(value, Mapping) and nesting[0] in value):
            continue
        for key in nesting:
            if not (isinstance(value, Mapping) and key in value):
                raise WeightsError(
                    f"{path} holds no model.",
                    f"there is no {key!r} in it",
                    f"give one with weights under {' / '.join(nesting)}",
                )
            _refuse_unknown(value, key, _COMPANIONS[key], path)
            value = value[key]
    return value


def _unwrap(value: Any, path: Path, log: Callable[[str], None]) -> Any:
    """Return the state dict under a key of another trainer; `value` itself without such a key or with tensors."""
    if not isinstance(value, Mapping) or any(isinstance(item, Tensor) for item in value.values()):
        return value
    present = [key for key in _WRAPPERS if isinstance(value.get(key), Mapping)]
    if not present:
        return value
    _refuse_unknown(value, present[0], _IGNORED | set(_WRAPPERS), path)
    if beside := sorted(str(name) for name in value if name != present[0]):
        average = "; to convert the average, save it alone" if set(beside) & set(_WRAPPERS) else ""
        log(f"{path}: took {present[0]!r} and left out {', '.join(beside)}{average}")
    return value[present[0]]


def _refuse_unknown(value: Mapping[Any, Any], key: str, known: set[str] | frozenset[str], path: Path) -> None:
    unknown = sorted(str(name) for name in value.keys() - known - {key})
    if unknown:
        raise WeightsError(
            f"{path} holds more than a model.",
            f"beside {key!r} there is {', '.join(unknown)}, and nothing is dropped silently",
            f"save only the content of {key!r} with torch.save",
        )


def _plain(value: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(value, Mapping) or not value:
        raise WeightsError(
            f"{path} is not a checkpoint.", f"it holds a {type(value).__name__}, not named tensors", "check the file"
        )
    wrong = [str(name) for name, item in value.items() if not _is_plain(name, item)]
    if wrong:
        raise WeightsError(
            f"{path} is not a checkpoint.",
            f"{len(wrong)} entries are not plain tensors: {', '.join(wrong[:10])}",
            "give a state dict, or a file nested under 'vae' or 'trainer' / 'gpt_fsdp'",
        )
    size, held = sum(tensor.nbytes for tensor in value.values()), path.stat().st_size
    if size > held:
        why = f"its tensors take {size:,} bytes, but the file has only {held:,}: they share storage"
        raise WeightsError(f"{path} is not a checkpoint.", why, "save a clone of each tensor")
    return {name: tensor.detach() for name, tensor in value.items()}


def _is_plain(name: Any, item: Any) -> bool:
    if not (isinstance(name, str) and type(item) in (Tensor, nn.Parameter)):
        return False
    plain = item.layout == torch.strided and item.device.type == "cpu"
    return plain and not item.is_quantized and not item.is_nested


def _read_shards(folder: Path, log: Callable[[str], None]) -> dict[str, Tensor]:
    weight_map = _weight_map(folder)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise WeightsError(f"{folder} lacks the shard {shard}.", fix="download the missing file")
        found = _read_file(folder / shard, log)
        expected = {name for name, file in weight_map.items() if file == shard}
        if expected != found.keys():
            wrong = sorted(expected ^ found.keys())
            raise WeightsError(
                f"The shard {folder / shard} doesn't match its index.",
                f"{len(wrong)} tensors are in only one of the two: {', '.join(wrong[:10])}",
                "download the folder again",
            )
        tensors |= found
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) != 1:
        raise WeightsError(
            f"{folder} is not a sharded checkpoint.",
            f"it has {len(indexes)} *.index.json files, and must have exactly one",
            "give a checkpoint file, or a folder with an index",
        )
    return read_weight_map(indexes[0])


def _compact(tensor: Tensor) -> Tensor:
    """Give a tensor contiguous storage of its own, since `torch.save` would write the whole storage of a view."""
    tensor = tensor.detach().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
