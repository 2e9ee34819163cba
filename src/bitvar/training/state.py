"""Checkpoints of a run: safetensors only, whole or absent, verified before they are believed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bitvar.checkpoints.files import atomic_folder, load_tensors, verify_folder
from bitvar.checkpoints.folder import read_tensors
from bitvar.errors import WeightsError, explain
from bitvar.training.optim import Ema

_AVERAGED = "ema.safetensors"


@dataclass
class TrainState:
    """All that a run must not lose. Data order and draws are functions of (seed, step), so they need no saving.

    Attributes:
        whole: false while an update is half done: such a state must not be saved.
    """

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    whole: bool = True


def save(state: TrainState, folder: Path, *, config: str, keep: int) -> Path:
    """Write `folder/step-N`, then remove all but the newest `keep`."""
    target = folder / f"step-{state.step:08d}"
    with atomic_folder(target) as temporary:
        save_file(_parameters(state.model), temporary / "model.safetensors")
        save_file(_parameters(state.ema.model), temporary / _AVERAGED)
        save_file(_optimizer_tensors(state.optimizer), temporary / "optimizer.safetensors")
        (temporary / "config.json").write_text(config, encoding="utf-8")
        (temporary / "state.json").write_text(json.dumps({"step": state.step}), encoding="utf-8")
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return target


def latest(folder: Path, *, report: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest checkpoint whose every digest is right, or None when there is none at all.

    A damaged one is passed over aloud: the steps since the one before are made again, and it is written anew.

    Raises:
        WeightsError: if there are checkpoints and all are damaged; a run never starts over in silence.
    """
    damaged = []
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        try:
            verify_folder(checkpoint)
        except WeightsError as error:
            damaged.append(str(error))
            report(f"{error}\n  so:  looking for the checkpoint before it")
            continue
        return checkpoint
    if damaged:
        raise WeightsError(
            explain(
                f"No checkpoint in {folder} is whole.\n{damaged[0]}",
                f"all {len(damaged)} were altered, and the run must not start over in silence",
                "restore one of them, or choose another --out for a new run",
            )
        )
    return None


def clear_partial(folder: Path) -> None:
    """Remove what a killed process left half-written; only while no other one writes there."""
    for left in folder.glob(".step-*.partial"):
        shutil.rmtree(left)


def restore(state: TrainState, checkpoint: Path, *, config: str) -> None:
    """Load a checkpoint that `latest` found into `state`.

    Raises:
        WeightsError: if it was made by a run of another configuration.
    """
    saved = (checkpoint / "config.json").read_text(encoding="utf-8")
    if json.loads(saved) != json.loads(config):
        raise WeightsError(
            explain(
                f"{checkpoint} was made with another configuration.",
                "a run can only go on as it began",
                "choose another --out for the new run, or use the old settings",
            )
        )
    state.model.load_state_dict(load_tensors(checkpoint / "model.safetensors"))
    state.ema.model.load_state_dict(load_tensors(checkpoint / _AVERAGED))
    _load_optimizer(state.optimizer, load_tensors(checkpoint / "optimizer.safetensors"))
    state.step = step_of(checkpoint)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was saved."""
    return int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"])


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of a run, rather than a model folder."""
    return (folder / _AVERAGED).is_file()


def load_initial(model: nn.Module, source: Path) -> None:
    """Begin a new run from the averaged weights of a checkpoint, or a model folder's transformer, of the same sizes.

    Raises:
        WeightsError: if the files are altered, or the model in them has other sizes.
    """
    verify_folder(source)
    tensors = load_tensors(source / _AVERAGED) if is_checkpoint(source) else read_tensors(source / "transformer")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        why = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise WeightsError(
            explain(f"{source} holds another model.", why, "give one of the same sizes, or set the recipe's to its own")
        ) from None


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    entries = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value.contiguous() for index, entry in entries.items() for name, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Averages take their parameter's memory layout: the fused AdamW walks both by address, not by index."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        state.setdefault(int(index), {})[name] = laid_out
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
