"""Training checkpoints: safetensors, written atomically in the background and verified by digest before loading."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bitvar.errors import WeightsError
from bitvar.files import flush
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.identity import RunIdentity, require_same
from bitvar.training.engine.optim import Ema, trained_parameters
from bitvar.training.engine.retention import Validated, checkpoint_name, is_ours, list_checkpoints, prune, read_state
from bitvar.training.engine.shards import Rows, ShardedTensors, local_rows, shard_name, write_rows
from bitvar.weights.digests import MANIFEST, digest, read_object, verify_folder
from bitvar.weights.tensors import read_tensors

GROUPS = ("model", "ema", "optimizer")

Snapshot: TypeAlias = Mapping[str, Mapping[str, Rows]]
"""Copies, in memory, of the rows that this rank writes, by group and tensor name."""


@dataclass
class TrainState:
    """Training state that a checkpoint saves. The sample order and random draws follow from (seed, step).

    Attributes:
        model: Model that is trained, with its current weights.
        ema: Averaged weights.
        optimizer: Optimizer and its state.
        step: Number of steps that are done.
        whole: False while an update is half done. Such a state must not be saved.
        extensions: Extensions of the run: the step (`at`), and the total steps before (`from`) and after (`to`).
        validated: Validation metric of the current step, if it was validated.
    """

    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    whole: bool = True
    extensions: list[dict[str, int]] = field(default_factory=list)
    validated: Validated | None = None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Context in which the model has its averaged weights."""
        self.whole = False
        self.ema.swap(self.model)
        try:
            yield self.model
        finally:
            self.ema.swap(self.model)
            self.whole = True

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return every tensor to save, by group and name."""
        parameters = trained_parameters(self.model)
        moments = {
            f"{name}:{key}": value
            for name, parameter in parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return {"model": dict(parameters), "ema": self.ema.tensors, "optimizer": moments}


class Saver:
    """Background writer of checkpoints. Each save waits for the one before it.

    Args:
        folder: Folder in which `step-N` is created.
        config: Whole configuration of the run as JSON.
        keep: Number of checkpoints to keep, beside the one with the best validation metric.
        identity: Other parts of the run's identity, by name.
        base_sha256: Digest of the frozen weights that the trained ones belong to, such as an adapter's base model; None
            if all weights are trained.
        counts: Number of samples in each bucket, to detect a changed data set.
        context: Distributed context; each rank writes its shards, and the main one completes the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str,
        keep: int,
        identity: Mapping[str, str] | None = None,
        base_sha256: str | None = None,
        counts: Sequence[int] = (),
        context: DistributedContext | None = None,
    ) -> None:
        self.folder, self.config, self.keep, self.base_sha256 = folder, config, keep, base_sha256
        self.identity = dict(identity or {})
        self.counts = list(counts)
        self.context = context or DistributedContext()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._pending: Future[None] | None = None

    def save(self, state: TrainState) -> None:
        """Copy the state and start writing it as `step-N` in the background.

        Raises:
            OSError: If the previous save failed.
        """
        self.wait()
        taken, values = take_snapshot(state, self.context), self._values(state)
        self._pending = self._pool.submit(self._write, taken, state.step, values)

    def _values(self, state: TrainState) -> dict[str, Any]:
        """Return the content of `state.json`."""
        values = {"step": state.step, "base_sha256": self.base_sha256, "counts": self.counts, "identity": self.identity}
        if state.extensions:
            values["extensions"] = [dict(extension) for extension in state.extensions]
        if state.validated is not None:
            values["validation"] = state.validated._asdict()
        return values

    def wait(self) -> None:
        """Wait until the last checkpoint is complete, or raise its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait for the last checkpoint and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _write(self, taken: Snapshot, step: int, values: Mapping[str, Any]) -> None:
        target, temporary = self.folder / checkpoint_name(step), self.folder / f".{checkpoint_name(step)}.partial"
        try:
            self._together(lambda: self._prepare(temporary))
            self._together(lambda: self._write_own(temporary, taken))
            self._together(lambda: self._finish(temporary, target, values))
        finally:
            if self.context.is_main:
                shutil.rmtree(temporary, ignore_errors=True)

    def _together(self, act: Callable[[], None]) -> None:
        """Call `act` on every rank and wait for all of them. If it fails on one rank, raise on all."""
        failure: Exception | None = None
        try:
            act()
        except Exception as error:  # raised below, once the other ranks know
            failure = error
        failed_anywhere = self.context.any(failure is not None, background=True)
        if failure is not None:
            raise failure
        if failed_anywhere:
            raise OSError("another rank could not write its part of the checkpoint")

    def _prepare(self, temporary: Path) -> None:
        if self.context.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    def _write_own(self, temporary: Path, taken: Snapshot) -> None:
        sums = {}
        for group, tensors in taken.items():
            if not tensors:
                continue
            path = temporary / shard_name(group, _shard_of(self.context), _num_shards(tensors, self.context))
            write_rows(path, tensors)
            flush(path)
            sums[path.name] = digest(path)
        if sums:
            (temporary / f".{self.context.rank}.sums").write_text(json.dumps(sums), encoding="utf-8")

    def _finish(self, temporary: Path, target: Path, values: Mapping[str, Any]) -> None:
        if not self.context.is_main:
            return
        sums: dict[str, str] = {}
        for path in temporary.glob(".*.sums"):
            sums |= json.loads(path.read_text(encoding="utf-8"))
            path.unlink()
        for name, text in (("config.json", self.config), ("state.json", json.dumps(values))):
            (temporary / name).write_text(text, encoding="utf-8")
            sums[name] = digest(temporary / name)
        (temporary / MANIFEST).write_text(json.dumps(dict(sorted(sums.items())), indent=2) + "\n", encoding="utf-8")
        for name in ("config.json", "state.json", MANIFEST):
            flush(temporary / name)
        flush(temporary)
        if is_ours(target):
            shutil.rmtree(target)
        temporary.replace(target)  # raises if something that no run wrote has the name
        flush(self.folder)
        prune(self.folder, keep=self.keep)


def take_snapshot(state: TrainState, context: DistributedContext) -> Snapshot:
    """Copy the rows that this rank writes: its shards, in the first replica; unsharded tensors, on the main rank."""
    taken: dict[str, dict[str, Rows]] = {}
    for group, tensors in state.tensors().items():
        kept = {}
        for name, tensor in tensors.items():
            rows = local_rows(tensor)
            partial = rows.values.shape != tensor.shape
            if context.is_main or (partial and _is_first_copy(context)):
                kept[name] = Rows(rows.values.to("cpu", copy=True), rows.start, rows.total)
        taken[group] = kept
    return taken


def _is_first_copy(context: DistributedContext) -> bool:
    return context.mesh is None or context.mesh.get_local_rank(0) == 0


def _shard_of(context: DistributedContext) -> int:
    return 0 if context.mesh is None else context.mesh.get_local_rank(1)


def _num_shards(tensors: Mapping[str, Rows], context: DistributedContext) -> int:
    """Return the number of files of a group: one per shard, or a single one if no tensor is sharded."""
    partial = any(rows.values.ndim and rows.values.shape[0] != rows.total for rows in tensors.values())
    return context.mesh.size(1) if partial and context.mesh is not None else 1


def latest(folder: Path, *, log: Callable[[str], None] = lambda line: None) -> Path | None:
    """Find the newest checkpoint that passes verification; None if the folder has no checkpoints.

    A damaged checkpoint is skipped and logged. The run then repeats the steps since the one before, and overwrites it.

    Args:
        folder: Folder of the checkpoints.
        log: Receives a line of text for every damaged checkpoint.

    Raises:
        WeightsError: If there are checkpoints but all are damaged; a run never starts over silently.
    """
    damaged = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_folder(checkpoint)
        except WeightsError as error:
            damaged.append(str(error))
            log(f"{error}\n  so:  trying the checkpoint before it")
            continue
        return checkpoint
    if damaged:
        raise WeightsError(
            f"No checkpoint in {folder} is whole.\n{damaged[0]}",
            f"all {len(damaged)} were altered, and the run must not start over in silence",
            "restore one of them, or choose another --out for a new run",
        )
    return None


def clear_partial(folder: Path) -> None:
    """Delete partial checkpoints that a killed process left behind. No other process may be writing in the folder."""
    for left in folder.glob(".step-*.partial"):
        if left.is_symlink() or not left.is_dir():
            left.unlink()
        else:
            shutil.rmtree(left)


def require_resumable(
    folder: Path, config: str, *, identity: Mapping[str, str] | None = None, extend: bool = False
) -> None:
    """Check early, before any model or data is loaded, that `restore` will accept a folder's newest checkpoint.

    A checkpoint that can't be read passes; `latest` handles it.

    Args:
        folder: Folder of the checkpoints.
        config: Whole configuration of the run, as JSON.
        identity: Other parts of the run's identity, by name.
        extend: Whether `optimization.steps` may be larger than before.

    Raises:
        UsageError: If a run with another identity saved the checkpoint.
    """
    known = list_checkpoints(folder)
    try:
        saved = RunIdentity(read_object(known[-1] / "config.json"), identity_of(known[-1])) if known else None
    except WeightsError:
        return
    if saved is not None:
        now = RunIdentity(json.loads(config), identity or {})
        require_same(saved, now, checkpoint=known[-1], extend=extend)


def restore(
    state: TrainState,
    checkpoint: Path,
    *,
    config: str,
    identity: Mapping[str, str] | None = None,
    base: str | None = None,
    extend: bool = False,
) -> tuple[int, int] | None:
    """Load a verified checkpoint into `state`. Any number of ranks may have saved it.

    Args:
        state: State to fill.
        checkpoint: Checkpoint to load.
        config: Whole configuration of the run that resumes, as JSON.
        identity: Other parts of the run's identity, by name.
        base: Digest of the frozen weights that the trained ones belong to, such as an adapter's base model; None if all
            weights are trained.
        extend: Whether `optimization.steps` may be larger than before.

    Returns:
        Number of steps before and after the extension; None if the run is not extended.

    Raises:
        UsageError: If a run with another identity saved the checkpoint.
        WeightsError: If the checkpoint belongs to other frozen weights, or holds another model.
    """
    if read_state(checkpoint).get("base_sha256") != base:
        why = "its weights belong to a model other than the one given by --init"
        raise WeightsError(f"{checkpoint} can't be resumed.", why, "give the --init that the run started from")
    saved, now = RunIdentity(read_object(checkpoint / "config.json"), identity_of(checkpoint)), json.loads(config)
    extended = require_same(saved, RunIdentity(now, identity or {}), checkpoint=checkpoint, extend=extend)
    parameters = trained_parameters(state.model)
    for group, tensors in (("model", parameters), ("ema", state.ema.tensors)):
        stored = ShardedTensors(checkpoint, group)
        for name, tensor in tensors.items():
            stored.read_into(name, tensor)
    _restore_optimizer(state.optimizer, parameters, ShardedTensors(checkpoint, "optimizer"))
    state.step, state.extensions = step_of(checkpoint), _extensions_of(checkpoint)
    if extended is not None:
        state.extensions.append({"at": state.step, "from": extended[0], "to": extended[1]})
    return extended


@torch.no_grad()
def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], stored: ShardedTensors
) -> None:
    """Load the optimizer state.

    Moments get the memory layout of their parameter, because fused AdamW pairs their elements by address, not by index.
    """
    for entry in stored.names:
        name, _, key = entry.rpartition(":")
        if name not in parameters:
            why = f"its optimizer has {entry!r}, which the model lacks"
            raise WeightsError(f"{stored.folder} holds another model.", why, "use the same sizes")
        parameter = parameters[name]
        moment = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
        stored.read_into(entry, moment)
        optimizer.state[parameter][key] = moment


def identity_of(checkpoint: Path) -> dict[str, str]:
    """Read the run's identity, apart from its configuration; empty for an old checkpoint that does not record it."""
    found = read_state(checkpoint).get("identity")
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _extensions_of(checkpoint: Path) -> list[dict[str, int]]:
    found = read_state(checkpoint).get("extensions")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def step_of(checkpoint: Path) -> int:
    """Read the step at which a checkpoint was saved."""
    step = read_state(checkpoint).get("step")
    if type(step) is not int or step < 0:
        raise WeightsError(f"{checkpoint} is damaged.", f"its step is {step!r}", "restore the files")
    return step


def counts_of(checkpoint: Path) -> list[object]:
    """Read the number of samples in each bucket of the run's data; empty if the checkpoint does not record it."""
    counts = read_state(checkpoint).get("counts")
    return counts if isinstance(counts, list) else []


def base_sha256(checkpoint: Path) -> str | None:
    """Read the digest of the frozen weights that a checkpoint's own belong to; None if all weights were trained."""
    digest = read_state(checkpoint).get("base_sha256")
    return digest if isinstance(digest, str) else None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a training checkpoint rather than a model folder."""
    return (folder / "state.json").is_file()


def averaged_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a checkpoint, unsharded."""
    stored = ShardedTensors(checkpoint, "ema")
    return {name: stored.full_tensor(name) for name in stored.names}


def load_pretrained(model: nn.Module, source: Path) -> dict[str, str]:
    """Load a checkpoint's averaged weights, or a model folder's transformer, into a new run's model.

    Args:
        model: Model to fill.
        source: Checkpoint or model folder with a model of the same sizes.

    Returns:
        Verified manifest of `source`.

    Raises:
        WeightsError: If the files are altered, or the model in them has other sizes.
    """
    initial = Initial.read(source)
    initial.load_into(model)
    return initial.sums


@dataclass(frozen=True)
class Initial:
    """Initial weights of a new run: a checkpoint's averaged weights, or those of a model folder's transformer.

    Attributes:
        source: Checkpoint or model folder.
        tensors: Weights by parameter name.
        sums: Verified manifest of the folder.
    """

    source: Path
    tensors: Mapping[str, Tensor]
    sums: dict[str, str]

    @classmethod
    def read(cls, source: Path) -> "Initial":
        """Read and verify the weights in a folder.

        Raises:
            WeightsError: If the files are altered or can't be read.
        """
        sums = verify_folder(source)
        tensors = averaged_tensors(source) if is_checkpoint(source) else read_tensors(source / "transformer")
        return cls(source, tensors, sums)

    def load_into(self, model: nn.Module) -> None:
        """Load the weights into a model.

        For a model on the device "meta", this is a cheap check of names and shapes: no tensor is copied.

        Raises:
            WeightsError: If the model has other sizes.
        """
        try:
            model.load_state_dict(self.tensors, assign=any(tensor.is_meta for tensor in model.parameters()))
        except RuntimeError as error:
            why = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            todo = "give a model of the recipe's sizes, or set the recipe's sizes to those of this model"
            raise WeightsError(f"{self.source} holds another model.", why, todo) from None
