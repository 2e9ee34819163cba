"""The one training loop. It owns time, logs and checkpoints; what a step computes is the task's business.

Order and draws are functions of the seed (`data/order.py`, `parts.py`), so a run that was killed and restarted, on more
ranks or fewer, makes the very same steps.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from bitvar.data.order import SampleOrder
from bitvar.errors import UsageError, explain
from bitvar.training import parallel
from bitvar.training import state as checkpoints
from bitvar.training.config import IntervalConfig, OptimizationConfig
from bitvar.training.health import Trouble, batches_to_tell, find_collapse, find_trouble
from bitvar.training.metrics import MetricsFile, read_metrics
from bitvar.training.optim import Ema, build_optimizer, trained_parameters
from bitvar.training.parallel import Ranks
from bitvar.training.parts import Part, parts_of
from bitvar.training.update import TrainingDivergedError, Updater

Metrics = dict[str, float]

__all__ = ["Metrics", "Run", "Task", "TrainingDivergedError", "TrainingStoppedError", "Work", "run"]


class Work(NamedTuple):
    """What a sample is to a step: tokens, and floating-point operations if they are known, else 0."""

    tokens: int
    operations: float


class TrainingStoppedError(RuntimeError):
    """The run was asked to stop, and has saved where it was."""


@runtime_checkable
class Task(Protocol):
    """What the loop trains."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def units(self) -> Sequence[nn.Module]:
        """What is gathered apart when the model is in shards; none if every rank has to hold all of it."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each bucket."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model shall compute."""
        ...

    def fresh(self) -> nn.Module:
        """A model of the same sizes on the CPU, whose weights will be overwritten."""
        ...

    def batches(self, parts: Iterable[Part]) -> Iterator[Any]:
        """What `loss` needs of each part, in order; may read ahead."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a part, and what to log of it."""
        ...

    def validate(self, model: nn.Module, ranks: Ranks) -> Metrics:
        """Figures on held-out samples, shared by the ranks. `model` has the averaged weights."""
        ...

    def work(self, bucket: int) -> Work:
        """What one sample of a bucket is."""
        ...


@dataclass(frozen=True)
class Run:
    """Where and how a task is trained.

    Attributes:
        folder: gets `checkpoints/`, `metrics.jsonl` and `samples/`.
        config: JSON of the whole configuration, kept with every checkpoint.
        begun_from: digest of the frozen weights that the trained ones belong to, if there are any.
        per_part: samples that a rank passes through the model at once; all of its share if None.
        ranks: who trains together; their number may change between restarts.
        peak: floating-point operations a second that the device could do, to report the share that is used.
        sample: writes pictures of the averaged model to a PNG; None for no samples.
        stop: asked after every step; once true, the run saves and stops.
        beat: called while there is progress.
        report: receives a line of text for people.
        track: receives (step, phase, figures), as `metrics.jsonl` does.
        show: receives (step, picture file) of samples.
    """

    folder: Path
    config: str
    optimization: OptimizationConfig
    intervals: IntervalConfig
    begun_from: str | None = None
    per_part: int | None = None
    ranks: Ranks = field(default_factory=Ranks)
    peak: float | None = None
    sample: Callable[[nn.Module, Path], None] | None = None
    stop: Callable[[], bool] = lambda: False
    beat: Callable[[], None] = lambda: None
    report: Callable[[str], None] = lambda line: None
    track: Callable[[int, str, Metrics], None] = lambda step, phase, values: None
    show: Callable[[int, Path], None] = lambda step, path: None


def run(task: Task, run: Run) -> nn.Module | None:
    """Train to the last step, resuming from the newest checkpoint if there is one.

    An interrupted run saves before it stops, unless the update was half done. A finished one is a no-op.

    Returns:
        The model with its averaged weights, whole; None on every rank but the main one.

    Raises:
        TrainingDivergedError: when loss or gradient is not finite.
        TrainingStoppedError: when `run.stop` asked for it; the state is saved.
        UsageError: when another process trains in the same folder, or the ranks can't share a batch.
        WeightsError: when every checkpoint is altered, or the newest is of another configuration.
    """
    _check_shares(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / ".lock", timeout=0) if run.ranks.is_main else nullcontext():
            return _run(task, run)
    except Timeout:
        raise UsageError(
            explain(
                f"Another process is training in {run.folder}.",
                "two runs in one folder would overwrite each other's checkpoints",
                "wait for it, stop it, or choose another --out",
            )
        ) from None


def _check_shares(run: Run) -> None:
    size, world = run.optimization.batch_size, run.ranks.world
    if size % world or (run.per_part is not None and (size // world) % run.per_part):
        whom = f"{world} ranks" + (f" in parts of {run.per_part}" if run.per_part else "")
        why = "every rank and every part takes as many samples"
        todo = "change the ranks, --per-part or optimization.batch_size so that they divide"
        raise UsageError(explain(f"{whom} can't share a batch of {size}.", why, todo))


def _run(task: Task, run: Run) -> nn.Module | None:
    state = _prepare(task, run)
    loop = _Loop(task, run, state)
    try:
        loop.train()
    except KeyboardInterrupt:
        loop.save_if_whole()
        raise
    finally:
        loop.saver.close()
    state.ema.swap(task.model)
    model = parallel.gather(task.model, task.fresh, run.ranks)
    return None if model is None else model.requires_grad_(False).eval()


def _prepare(task: Task, run: Run) -> checkpoints.TrainState:
    """Spread the model, make the optimiser and the averages, and load the newest checkpoint into them."""
    folder, report = run.folder / "checkpoints", run.report
    newest = ""
    if run.ranks.is_main:
        newest = str(checkpoints.latest(folder, report=report) or "")
        checkpoints.clear_partial(folder)
    newest = run.ranks.first(newest)
    parallel.distribute(task.model, task.units, run.ranks, precision=task.dtype, device=task.device)
    optimizer = build_optimizer(task.model, run.optimization)
    state = checkpoints.TrainState(task.model, Ema(task.model, run.optimization.ema_decay), optimizer)
    if newest:
        checkpoints.restore(state, Path(newest), config=run.config, base=run.begun_from)
        report(f"resuming at step {state.step}")
        had = checkpoints.counts_of(Path(newest))
        if had and had != list(task.counts):
            report(f"WARNING: the data have changed, from {had} samples to {list(task.counts)}: other ones come next")
    return state


class _Loop:
    """One stretch of a run, from where it begins or resumes."""

    def __init__(self, task: Task, run: Run, state: checkpoints.TrainState) -> None:
        self.task, self.run, self.state = task, run, state
        optimization, ranks = run.optimization, run.ranks
        self.saver = checkpoints.Saver(
            run.folder / "checkpoints",
            config=run.config, keep=run.intervals.keep, begun_from=run.begun_from, counts=task.counts, ranks=ranks,
        )  # fmt: skip
        self.saved_step = state.step
        self.metrics = MetricsFile(run.folder / "metrics.jsonl", state.step) if ranks.is_main else None
        self.throughput = Throughput()
        self.warned: set[str] = set()
        self.recent: dict[str, deque[tuple[int, float]]] = {}
        order = SampleOrder(task.counts, optimization.batch_size, optimization.seed)
        per_part = run.per_part or optimization.batch_size // ranks.world
        num_parts = optimization.batch_size // ranks.world // per_part
        steps = range(state.step, optimization.steps)
        parts = parts_of(order, steps, rank=ranks.rank, ranks=ranks.world, per_part=per_part)
        self.batches = self._counted(task.batches(parts))
        self.updater = Updater(state, task.loss, optimization, num_parts=num_parts, ranks=ranks, report=run.report)

    def train(self) -> None:
        run, state = self.run, self.state
        optimization, intervals = run.optimization, run.intervals
        while state.step < optimization.steps:
            logged = self.updater.step(self.batches)
            run.beat()
            last = state.step == optimization.steps
            if last or state.step % intervals.log == 0:
                self._check_copies()
                values = run.ranks.mean(logged)
                self._log("train", values | self.throughput.read(run.ranks.world, run.peak))
                self._watch(values)
            if last or state.step % intervals.validation == 0:
                with state.averaged() as model:
                    self._log("validation", self.task.validate(model, run.ranks))
                if self.metrics is not None:
                    self._warn(find_trouble(read_metrics(run.folder), batch_size=optimization.batch_size))
                run.beat()
            if run.sample is not None and (last or state.step % intervals.sample == 0):
                self._sample(run.sample)
                run.beat()
            stopping = run.ranks.any(run.stop())  # asked once: the answer may change while we save
            if last or stopping or state.step % intervals.save == 0:
                self._save()
            if stopping and not last:
                self.saver.wait()
                raise TrainingStoppedError(f"Stopped at step {state.step}; the same command goes on from there.")

    def save_if_whole(self) -> None:
        """Save what an interrupt left, if it is a state that the run passes through."""
        if self.saved_step < self.state.step and self.state.whole and self.run.ranks.world == 1:
            self._save()

    def _save(self) -> None:
        self._check_copies()
        self.saver.save(self.state)
        self.saved_step = self.state.step

    def _check_copies(self) -> None:
        tensors = [*trained_parameters(self.task.model).values(), *self.state.ema.tensors.values()]
        parallel.require_equal_copies(tensors, self.run.ranks)

    def _sample(self, sample: Callable[[nn.Module, Path], None]) -> None:
        with self.state.averaged():
            model = parallel.gather(self.task.model, self.task.fresh, self.run.ranks)
            if model is not None:
                path = self.run.folder / "samples" / f"step-{self.state.step:08d}.png"
                sample(model, path)
                self.run.show(self.state.step, path)

    def _log(self, phase: str, values: Metrics) -> None:
        run, step = self.run, self.state.step
        if self.metrics is not None:
            self.metrics.write(step, phase, values)
            run.track(step, phase, values)
            prefix = "" if phase == "train" else f"{phase} "
            run.report(_describe(step, run.optimization, values, prefix=prefix))

    def _watch(self, values: Metrics) -> None:
        """Say aloud what can't wait for the next validation."""
        batch_size = self.run.optimization.batch_size
        for name, value in values.items():
            points = self.recent.setdefault(name, deque(maxlen=batches_to_tell(batch_size)))
            points.append((self.state.step, value))
        recent = {name: list(points) for name, points in self.recent.items()}
        self._warn(find_collapse(recent, batch_size=batch_size))

    def _warn(self, troubles: Iterable[Trouble]) -> None:
        """Say aloud what looks wrong, each kind of trouble once."""
        for trouble in troubles if self.metrics is not None else ():
            if trouble.todo not in self.warned:
                self.warned.add(trouble.todo)
                self.run.report(f"WARNING: {trouble.what}\n  do:  {trouble.todo}")

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.throughput.add(batch, self.task)
            yield batch


class Throughput:
    """What one rank did since the last question, and how fast."""

    def __init__(self) -> None:
        self.time, self.samples, self.tokens, self.operations = time.perf_counter(), 0, 0, 0.0

    def add(self, batch: Any, task: Task) -> None:
        """Count a batch, which has its `Part` as `part`."""
        part: Part = batch.part
        self.samples += len(part)
        tokens, operations = task.work(part.bucket)
        self.tokens += len(part) * tokens
        self.operations += len(part) * operations

    def read(self, ranks: int, peak: float | None) -> Metrics:
        """Figures of all ranks together, as if they were as fast as this one; and begin anew."""
        now = time.perf_counter()
        took = now - self.time
        values = {"samples_per_second": self.samples * ranks / took}
        if self.tokens:
            values["tokens_per_second"] = self.tokens * ranks / took
        if self.operations:
            values["teraflops"] = self.operations * ranks / took / 1e12
            if peak:
                values["utilization"] = self.operations / took / peak
        self.time, self.samples, self.tokens, self.operations = now, 0, 0, 0.0
        return values


def _describe(step: int, optimization: OptimizationConfig, values: Metrics, *, prefix: str = "") -> str:
    shown = {name: value for name, value in values.items() if "/" not in name}
    line = f"{prefix}step {step}/{optimization.steps}  "
    line += "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
    if rate := values.get("samples_per_second"):
        left = timedelta(seconds=round((optimization.steps - step) * optimization.batch_size / rate))
        line += f"  left {left}"
    return line
