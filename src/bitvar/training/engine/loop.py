"""The training loop. It owns steps, logs and checkpoints; the task decides what a step computes.

Sample order and random draws are functions of the seed (`data/order.py`, `microbatch.py`), so a run that is killed and
restarted, on more ranks or fewer, repeats exactly the same steps.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from bitvar.data.order import SampleOrder
from bitvar.errors import UsageError
from bitvar.training.config import IntervalConfig, OptimizationConfig
from bitvar.training.engine import checkpoint as checkpoints
from bitvar.training.engine import distributed
from bitvar.training.engine.checkpoint import step_of
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.metrics_log import MetricsFile, read_metrics
from bitvar.training.engine.microbatch import MicroBatch, micro_batches_of
from bitvar.training.engine.optim import Ema, build_optimizer, trained_parameters
from bitvar.training.engine.retention import (
    Validated,
    best_checkpoint,
    checkpoint_name,
    list_checkpoints,
    validated_at,
)
from bitvar.training.engine.update import TrainingDivergedError, Updater
from bitvar.training.monitor.health import Trouble, batches_for_collapse, find_collapse, find_trouble
from bitvar.training.monitor.progress import SampleCost, Throughput, describe_extension, describe_step

Metrics = dict[str, float]

__all__ = [
    "Metrics",
    "SampleCost",
    "Task",
    "TrainerConfig",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "TrainingStoppedError",
    "train",
]


class TrainingStoppedError(RuntimeError):
    """The run was asked to stop, and has saved a checkpoint."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C. The message says where the run will resume."""


@runtime_checkable
class Task(Protocol):
    """A model and its training step: the interface that the loop needs."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def fsdp_units(self) -> Sequence[nn.Module]:
        """Modules that FSDP shards and gathers one by one; none if every rank must hold the whole model."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of samples in each bucket."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        ...

    @property
    def device(self) -> torch.device:
        """Device that the model trains on."""
        ...

    def build_model(self) -> nn.Module:
        """Build a model of the same sizes on the CPU. Its weights will be overwritten."""
        ...

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Any]:
        """Yield the input of `loss` for each micro-batch, in order. May read ahead."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a micro-batch, and metrics to log."""
        ...

    def validate(self, model: nn.Module, context: DistributedContext) -> Metrics:
        """Measure metrics on held-out samples, which the ranks share. `model` has the averaged weights."""
        ...

    def sample_cost(self, bucket: int) -> SampleCost:
        """Return the cost of one sample of a bucket."""
        ...


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of a training run that the task does not define.

    Attributes:
        folder: Folder of the run, which gets `checkpoints/`, `metrics.jsonl` and `samples/`.
        config_json: Whole configuration as JSON, stored with every checkpoint.
        optimization: Optimizer, learning rate, batch size and number of steps.
        intervals: Number of steps between logs, validations, samples and checkpoints.
        identity: Digests of everything else that the run depends on, by name, stored with every checkpoint
            (`identity.py`).
        extend: Whether to resume from a checkpoint of a run with fewer `optimization.steps`.
        base_sha256: Digest of the frozen weights that the trained ones belong to, such as an adapter's base model; None
            if all weights are trained.
        micro_batch_size: Samples that a rank passes through the model at once; None for its whole share of a step.
        context: Distributed context. The number of ranks may change between restarts.
        peak_flops: Operations per second that one device can do, to report utilization; None if unknown.
        sample: Writes images sampled from the averaged model to a PNG; None for no samples.
        stop: Called after every step. Once it returns true, the run saves and stops.
        heartbeat: Called whenever the run makes progress.
        log: Receives a line of text.
        on_step: Receives every step and the metrics of the latest log line.
        log_metrics: Receives (step, phase, metrics) for every line of `metrics.jsonl`.
        log_image: Receives (step, image file) for every sample sheet.
    """

    folder: Path
    config_json: str
    optimization: OptimizationConfig
    intervals: IntervalConfig
    identity: Mapping[str, str] = field(default_factory=dict)
    extend: bool = False
    base_sha256: str | None = None
    micro_batch_size: int | None = None
    context: DistributedContext = field(default_factory=DistributedContext)
    peak_flops: float | None = None
    sample: Callable[[nn.Module, Path], None] | None = None
    stop: Callable[[], bool] = lambda: False
    heartbeat: Callable[[], None] = lambda: None
    log: Callable[[str], None] = lambda line: None
    on_step: Callable[[int, Metrics], None] = lambda step, values: None
    log_metrics: Callable[[int, str, Metrics], None] = lambda step, phase, values: None
    log_image: Callable[[int, Path], None] = lambda step, path: None


def train(task: Task, config: TrainerConfig) -> nn.Module | None:
    """Train to the last step, resuming from the newest checkpoint if there is one.

    An interrupted run saves before it stops, unless an update was half done. A finished run is a no-op.

    Returns:
        The unsharded model with its averaged weights; None on every rank but the main one.

    Raises:
        TrainingDivergedError: If the loss or the gradient is not finite.
        TrainingStoppedError: If `config.stop` returned true; the state is saved.
        TrainingInterrupted: After Ctrl-C; the state is saved, unless an update was half done.
        UsageError: If another process trains in the same folder, the ranks can't share a batch equally, or the newest
            checkpoint belongs to a run of another identity.
        WeightsError: If every checkpoint is altered.
    """
    require_shares(config.optimization.batch_size, config.context.world, config.micro_batch_size)
    config.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(config.folder / ".lock", timeout=0) if config.context.is_main else nullcontext():
            return _run(task, config)
    except Timeout:
        raise UsageError(
            f"Another process is training in {config.folder}.",
            "two runs in one folder would overwrite each other's checkpoints",
            "wait for it, stop it, or choose another --out",
        ) from None


def require_shares(size: int, world: int, micro_batch_size: int | None) -> None:
    """Refuse a batch that ranks and micro-batches can't share equally.

    Args:
        size: Samples in a batch.
        world: Number of ranks.
        micro_batch_size: Samples in a micro-batch; None for a rank's whole share.

    Raises:
        UsageError: If the batch can't be shared.
    """
    if size % world or (micro_batch_size is not None and (size // world) % micro_batch_size):
        pieces = f" in micro-batches of {micro_batch_size}" if micro_batch_size else ""
        whom = f"{world} rank{'s' * (world > 1)}{pieces}"
        why = "every rank and every micro-batch takes equally many samples"
        todo = "change the ranks, --micro-batch or optimization.batch_size so that they divide"
        raise UsageError(f"{whom} can't share a batch of {size}.", why, todo)


def _run(task: Task, config: TrainerConfig) -> nn.Module | None:
    state = _prepare(task, config)
    loop = _Loop(task, config, state)
    try:
        loop.train()
    except KeyboardInterrupt:
        loop.save_if_whole()
        loop.close()
        raise TrainingInterrupted(loop.describe_stop()) from None
    finally:
        loop.close()
    loop.log_best()
    state.ema.swap(task.model)
    model = distributed.gather(task.model, task.build_model, config.context)
    return None if model is None else model.requires_grad_(False).eval()


def _prepare(task: Task, config: TrainerConfig) -> checkpoints.TrainState:
    """Distribute the model, build the optimizer and the averaged weights, and load the newest checkpoint."""
    folder, log = config.folder / "checkpoints", config.log
    newest = ""
    if config.context.is_main:
        newest = str(checkpoints.latest(folder, log=log) or "")
        checkpoints.clear_partial(folder)
    newest = config.context.broadcast_from_main(newest)
    distributed.distribute(task.model, task.fsdp_units, config.context, precision=task.dtype, device=task.device)
    optimizer = build_optimizer(task.model, config.optimization)
    state = checkpoints.TrainState(task.model, Ema(task.model, config.optimization.ema_decay), optimizer)
    if newest:
        extended = checkpoints.restore(
            state, Path(newest),
            config=config.config_json, identity=config.identity, base=config.base_sha256, extend=config.extend,
        )  # fmt: skip
        done = state.step >= config.optimization.steps
        log(f"finished already, at step {state.step}" if done else f"resuming at step {state.step}")
        if extended is not None:
            log(describe_extension(state.step, *extended, config.optimization))
        if config.identity and not checkpoints.identity_of(Path(newest)):
            log(f"WARNING: {newest} was saved before checkpoints recorded the data and frozen models of a run:"
                   " whether they have changed is unknown")  # fmt: skip
        had = checkpoints.counts_of(Path(newest))
        if had and had != list(task.counts):
            log(
                f"WARNING: the data set changed since the last checkpoint ({had} -> {list(task.counts)} samples per"
                " bucket); the sample order will differ from the original run"
            )
    return state


class _Loop:
    """The training loop of one process, from the first or resumed step to the last."""

    def __init__(self, task: Task, config: TrainerConfig, state: checkpoints.TrainState) -> None:
        self.task, self.config, self.state = task, config, state
        optimization, context = config.optimization, config.context
        self.saver = checkpoints.Saver(
            config.folder / "checkpoints",
            config=config.config_json, keep=config.intervals.keep, identity=config.identity,
            base_sha256=config.base_sha256, counts=task.counts, context=context,
        )  # fmt: skip
        self.saved_step = state.step
        self.metrics: MetricsFile | None = None
        if context.is_main:
            self.metrics = MetricsFile(config.folder / "metrics.jsonl", state.step, log=config.log)
        self.best = self._best_so_far()
        self.shown: Metrics = {}
        self.throughput = Throughput()
        self.warned: set[str] = set()
        self.recent: dict[str, deque[tuple[int, float]]] = {}
        order = SampleOrder(task.counts, optimization.batch_size, optimization.seed)
        micro_batch_size = config.micro_batch_size or optimization.batch_size // context.world
        num_micro_batches = optimization.batch_size // context.world // micro_batch_size
        steps = range(state.step, optimization.steps)
        micro_batches = micro_batches_of(
            order, steps, rank=context.rank, num_ranks=context.world, micro_batch_size=micro_batch_size
        )
        self.batches = self._counted(task.batches(micro_batches))
        self.updater = Updater(
            state, task.loss, optimization, num_micro_batches=num_micro_batches, context=context, log=config.log
        )

    def train(self) -> None:
        config, state = self.config, self.state
        optimization, intervals = config.optimization, config.intervals
        if config.sample is not None and state.step == 0 < optimization.steps:
            self._sample(config.sample)
            config.heartbeat()
        while state.step < optimization.steps:
            logged = self.updater.step(self.batches)
            state.validated = None
            config.heartbeat()
            last = state.step == optimization.steps
            if last or state.step % intervals.log == 0:
                self._check_replicas()
                values = config.context.mean(logged)
                self._log("train", values | self.throughput.read(config.context.world, config.peak_flops))
                self._watch(values)
            config.on_step(state.step, self.shown)
            if last or state.step % intervals.validation == 0:
                self._validate()
                config.heartbeat()
            if config.sample is not None and (last or state.step % intervals.sample == 0):
                self._sample(config.sample)
                config.heartbeat()
            stopping = config.context.any(config.stop())  # asked once: the answer may change while we save
            if last or stopping or state.step % intervals.save == 0 or self._is_best():
                self._save()
            if stopping and not last:
                with self._logging_failed_save():
                    self.saver.wait()
                raise TrainingStoppedError(f"Stopped at step {state.step}; the same command resumes from there.")

    def _validate(self) -> None:
        with self.state.averaged() as model:
            values = self.task.validate(model, self.config.context)
        self.state.validated = Validated.of(values)
        self._log("validation", values)
        if self.metrics is not None:
            self._warn(find_trouble(read_metrics(self.config.folder), batch_size=self.config.optimization.batch_size))

    def _best_so_far(self) -> Validated | None:
        """Return the best validation metric of any checkpoint, on every rank."""
        metric: Validated | None = None
        if self.config.context.is_main:
            best = best_checkpoint(self.saver.folder, until=self.state.step)
            metric = None if best is None else validated_at(best)
        text = self.config.context.broadcast_from_main("" if metric is None else json.dumps(metric))
        return Validated(*json.loads(text)) if text else None

    def _is_best(self) -> bool:
        """Whether this step has a better validation metric than every checkpoint."""
        return self.state.validated is not None and self.state.validated.better_than(self.best)

    def log_best(self) -> None:
        """Log at the end which step had the best validation metric, if it was an earlier one."""
        best = best_checkpoint(self.saver.folder) if self.metrics is not None else None
        metric = None if best is None else validated_at(best)
        if best is not None and metric is not None and step_of(best) < self.state.step:
            value = f"{metric.name} {metric.value:.4g}"
            self.config.log(
                f"validation was best at step {step_of(best)} ({value}): bitvar export RUN DEST --best, with the model,"
                " tokenizer or text encoder that the run was given"
            )

    def describe_stop(self) -> str:
        """Describe where an interrupted run will resume."""
        step = self.state.step
        if self.saved_step == step:
            return f"Stopped at step {step}, which is saved; the same command resumes there."
        where = f"step {self.saved_step}, the last that was saved" if self.saved_step else "the beginning"
        return f"Stopped at step {step}; the same command resumes from {where}."

    def close(self) -> None:
        """Wait until the last checkpoint is written, and end the writer thread."""
        with self._logging_failed_save():
            self.saver.close()

    @contextmanager
    def _logging_failed_save(self) -> Iterator[None]:
        """Context that logs which checkpoint is left if one can't be written."""
        try:
            yield
        except OSError:
            self._log_failed_save()
            raise

    def _log_failed_save(self) -> None:
        if self.metrics is not None:
            known = list_checkpoints(self.saver.folder)
            left = f"the checkpoint {known[-1].name} is whole, and the same command resumes from it" if known else (
                "there is no checkpoint yet, so the same command begins again"
            )  # fmt: skip
            self.config.log(f"WARNING: a checkpoint could not be written; {left}")

    def save_if_whole(self) -> None:
        """Save the state after an interrupt, unless an update was half done."""
        if self.saved_step < self.state.step and self.state.whole and self.config.context.world == 1:
            self._save()

    def _save(self) -> None:
        self._check_replicas()
        with self._logging_failed_save():
            self.saver.save(self.state)
        self.saved_step = self.state.step
        if self._is_best():
            self.best = self.state.validated

    def _check_replicas(self) -> None:
        tensors = [*trained_parameters(self.task.model).values(), *self.state.ema.tensors.values()]
        distributed.require_equal_replicas(tensors, self.config.context)

    def _sample(self, sample: Callable[[nn.Module, Path], None]) -> None:
        with self.state.averaged():
            model = distributed.gather(self.task.model, self.task.build_model, self.config.context)
            if model is not None:
                path = self.config.folder / "samples" / f"{checkpoint_name(self.state.step)}.png"
                try:
                    sample(model, path)
                except UsageError as error:  # a bad prompt must not end the run
                    self.config.log(f"WARNING: no sample sheet of step {self.state.step}: {error}")
                else:
                    self.config.log_image(self.state.step, path)

    def _log(self, phase: str, values: Metrics) -> None:
        config, step = self.config, self.state.step
        if self.metrics is not None:
            self.metrics.write(step, phase, values)
            config.log_metrics(step, phase, values)
            if phase == "validation":
                self.shown = self.shown | {
                    f"validation {name}": values[name] for name in ("loss", "psnr") if name in values
                }
                config.log(f"validation {describe_step(step, config.optimization.steps, values)}")
            else:
                self.shown = {name: value for name, value in self.shown.items() if name.startswith("validation")}
                self.shown |= {name: values[name] for name in ("loss", "samples_per_second") if name in values}
                self.shown["seconds_left"] = self._seconds_left(values)
                config.log(describe_step(step, config.optimization.steps, self.shown))

    def _seconds_left(self, values: Metrics) -> float:
        optimization, rate = self.config.optimization, values.get("samples_per_second", 0.0)
        return (optimization.steps - self.state.step) * optimization.batch_size / rate if rate else math.inf

    def _watch(self, values: Metrics) -> None:
        """Log signs of trouble that can't wait for the next validation."""
        batch_size = self.config.optimization.batch_size
        for name, value in values.items():
            points = self.recent.setdefault(name, deque(maxlen=batches_for_collapse(batch_size)))
            points.append((self.state.step, value))
        recent = {name: list(points) for name, points in self.recent.items()}
        self._warn(find_collapse(recent, batch_size=batch_size))

    def _warn(self, troubles: Iterable[Trouble]) -> None:
        """Log signs of trouble, each kind once."""
        for trouble in troubles if self.metrics is not None else ():
            if trouble.todo not in self.warned:
                self.warned.add(trouble.todo)
                self.config.log(f"WARNING: {trouble.what}\n  do:  {trouble.todo}")

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.throughput.add(batch, self.task)
            yield batch
