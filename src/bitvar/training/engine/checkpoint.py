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
"""Copies, in memory, of what this rank has to write: group, tensor, rows."""


@dataclass
class TrainState:
    """All that a run must not lose. Data order and draws are functions of (seed, step), so they need no saving.

    Attributes:
        whole: false while an update is half done: such a state must not be saved.
        extensions: at which step, from how many steps to how many the run was extended; kept with every checkpoint.
        validated: the validation figure of this very step, if there is one.
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
        """The model with its averaged weights, for as long as the block lasts."""
        self.whole = False
        self.ema.swap(self.model)
        try:
            yield self.model
        finally:
            self.ema.swap(self.model)
            self.whole = True

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything to save, by group and name."""
        parameters = trained_parameters(self.model)
        moments = {
            f"{name}:{key}": value
            for name, parameter in parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return {"model": dict(parameters), "ema": self.ema.tensors, "optimizer": moments}


class Saver:
    """Writes checkpoints while training goes on; a second one waits for the first.

    Args:
        folder: Folder that gets `step-N`.
        config: Whole configuration of the run as JSON.
        keep: Number of checkpoints to keep, beside the one with the best validation metric.
        identity: Other parts of the run's identity, by name.
        base_sha256: Digest of the frozen weights that an adapter is trained on; None without an adapter.
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
        """Copy the state and begin to write it as `step-N`.

        Raises:
            OSError: of the save before this one.
        """
        self.wait()
        taken, values = take_snapshot(state, self.context), self._values(state)
        self._pending = self._pool.submit(self._write, taken, state.step, values)

    def _values(self, state: TrainState) -> dict[str, Any]:
        """What `state.json` holds."""
        values = {"step": state.step, "base_sha256": self.base_sha256, "counts": self.counts, "identity": self.identity}
        if state.extensions:
            values["extensions"] = [dict(extension) for extension in state.extensions]
        if state.validated is not None:
            values["validation"] = state.validated._asdict()
        return values

    def wait(self) -> None:
        """Until the last checkpoint is whole, or its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
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
        """Do something on every rank, and wait for all; if one fails, all do."""
        failure: Exception | None = None
        try:
            act()
        except Exception as error:  # it is raised below, once the others know
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
        temporary.replace(target)  # fails, and says so, when something of somebody else's has the name
        flush(self.folder)
        prune(self.folder, keep=self.keep)


def take_snapshot(state: TrainState, context: DistributedContext) -> Snapshot:
    """Copies of what this rank writes: its shards if it is of the first copy; whole tensors on the main rank only."""
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
    """As many files as shards; one if the tensors are whole."""
    partial = any(rows.values.ndim and rows.values.shape[0] != rows.total for rows in tensors.values())
    return context.mesh.size(1) if partial and context.mesh is not None else 1


def latest(folder: Path, *, log: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest checkpoint whose every digest is right, or None when there is none at all.

    A damaged one is passed over aloud: the steps since the one before are made again, and it is written anew.

    Raises:
        WeightsError: if there are checkpoints and all are damaged; a run never starts over in silence.
    """
    damaged = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_folder(checkpoint)
        except WeightsError as error:
            damaged.append(str(error))
            log(f"{error}\n  so:  looking for the checkpoint before it")
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
    """Remove what a killed process left half-written; only while no other one writes there."""
    for left in folder.glob(".step-*.partial"):
        if left.is_symlink() or not left.is_dir():
            left.unlink()
        else:
            shutil.rmtree(left)


def require_resumable(
    folder: Path, config: str, *, identity: Mapping[str, str] | None = None, extend: bool = False
) -> None:
    """Refuse early what `restore` would refuse of the newest checkpoint in a folder, before anything is read for it.

    A damaged checkpoint is left to `latest`, which knows what to do.

    Raises:
        UsageError: if it was made by a run of another identity.
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
    """Load a checkpoint that `latest` found into `state`, whatever number of ranks it was saved by.

    Args:
        state: to fill.
        checkpoint: to read.
        config: JSON of the whole configuration of the run that goes on.
        identity: the other parts of its identity.
        base: digest of the frozen weights that the trained ones belong to, if there are any.
        extend: allow more `optimization.steps`.

    Returns:
        The steps before and now, if the run is extended.

    Raises:
        UsageError: if it was made by a run of another identity.
        WeightsError: if it was made on other frozen weights, or holds another model.
    """
    if read_state(checkpoint).get("base_sha256") != base:
        why = "its weights belong to another model than the one of --init"
        raise WeightsError(f"{checkpoint} can't go on from here.", why, "give the --init that it began from")
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
    """Moments take their parameter's memory layout: the fused AdamW walks both by address, not by index."""
    for entry in stored.names:
        name, _, key = entry.rpartition(":")
        if name not in parameters:
            why = f"its optimizer knows {entry!r}, which the model has not"
            raise WeightsError(f"{stored.folder} holds another model.", why, "use the same sizes")
        parameter = parameters[name]
        moment = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
        stored.read_into(entry, moment)
        optimizer.state[parameter][key] = moment


def identity_of(checkpoint: Path) -> dict[str, str]:
    """The parts of the run's identity, beside its configuration; empty for a checkpoint from before they were kept."""
    found = read_state(checkpoint).get("identity")
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _extensions_of(checkpoint: Path) -> list[dict[str, int]]:
    found = read_state(checkpoint).get("extensions")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was saved."""
    step = read_state(checkpoint).get("step")
    if type(step) is not int or step < 0:
        raise WeightsError(f"{checkpoint} is damaged.", f"its step is {step!r}", "restore the files")
    return step


def counts_of(checkpoint: Path) -> list[object]:
    """Samples of each bucket that the run had; empty if it isn't known."""
    counts = read_state(checkpoint).get("counts")
    return counts if isinstance(counts, list) else []


def base_sha256(checkpoint: Path) -> str | None:
    """The digest of the frozen weights that a checkpoint's own belong to."""
    digest = read_state(checkpoint).get("base_sha256")
    return digest if isinstance(digest, str) else None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of a run, rather than a model folder."""
    return (folder / "state.json").is_file()


def averaged_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, in one piece."""
    stored = ShardedTensors(checkpoint, "ema")
    return {name: stored.full_tensor(name) for name in stored.names}


def load_pretrained(model: nn.Module, source: Path) -> dict[str, str]:
    """Begin a new run from the averaged weights of a checkpoint, or a model folder's transformer, of the same sizes.

    Returns:
        The manifest of `source`, which has been verified.

    Raises:
        WeightsError: if the files are altered, or the model in them has other sizes.
    """
    initial = Initial.read(source)
    initial.load_into(model)
    return initial.sums


@dataclass(frozen=True)
class Initial:
    """What a new run begins from: a checkpoint's averaged weights, or those of a model folder's transformer.

    Attributes:
        source: the folder.
        tensors: the weights.
        sums: the folder's manifest, which has been verified.
    """

    source: Path
    tensors: Mapping[str, Tensor]
    sums: dict[str, str]

    @classmethod
    def read(cls, source: Path) -> "Initial":
        """Raises WeightsError if the files are altered, or their weights unsound."""
        sums = verify_folder(source)
        tensors = averaged_tensors(source) if is_checkpoint(source) else read_tensors(source / "transformer")
        return cls(source, tensors, sums)

    def load_into(self, model: nn.Module) -> None:
        """Give a model the weights; one on the device "meta" is only compared, and takes no room.

        Raises:
            WeightsError: if it has other sizes.
        """
        try:
            model.load_state_dict(self.tensors, assign=any(tensor.is_meta for tensor in model.parameters()))
        except RuntimeError as error:
            why = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            todo = "give one of the same sizes, or set the recipe's to its own"
            raise WeightsError(f"{self.source} holds another model.", why, todo) from None
