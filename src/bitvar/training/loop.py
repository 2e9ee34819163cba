"""The one training loop. It owns time, logs and checkpoints; what a step computes is the task's business.

Every draw is a function of (seed, step), so a run that was killed and restarted makes the very same steps.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from bitvar.errors import UsageError, explain
from bitvar.training import state as checkpoints
from bitvar.training.config import IntervalConfig, OptimizationConfig
from bitvar.training.optim import Ema, build_optimizer, learning_rate

Metrics = dict[str, float]


class TrainingDivergedError(RuntimeError):
    """The loss or a gradient is no finite number; the update was not made."""


class TrainingStoppedError(RuntimeError):
    """The run was asked to stop, and has saved where it was."""


@runtime_checkable
class Task(Protocol):
    """What the loop trains."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def num_samples(self) -> int: ...

    def loss(self, indices: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of samples, and what to log of it."""
        ...

    def validate(self, model: nn.Module) -> Metrics:
        """Figures on held-out samples, with the averaged weights."""
        ...


@dataclass(frozen=True)
class Run:
    """Where and how a task is trained.

    Attributes:
        folder: gets `checkpoints/`, `metrics.jsonl` and `samples/`.
        config: JSON of the whole configuration, kept with every checkpoint.
        sample: writes pictures of the averaged model to a PNG; None for no samples.
        stop: asked after every step; once true, the run saves and stops.
        report: receives a line of text for people.
    """

    folder: Path
    config: str
    optimization: OptimizationConfig
    intervals: IntervalConfig
    sample: Callable[[nn.Module, Path], None] | None = None
    stop: Callable[[], bool] = lambda: False
    report: Callable[[str], None] = lambda line: None


def run(task: Task, run: Run) -> nn.Module:
    """Train to the last step, resuming from the newest checkpoint if there is one. Returns the averaged model.

    An interrupted run saves before it stops, unless the update was half done. A finished one is a no-op.

    Raises:
        TrainingDivergedError: when loss or gradient is not finite.
        TrainingStoppedError: when `run.stop` asked for it; the state is saved.
        UsageError: when another process trains in the same folder.
        WeightsError: when every checkpoint is altered, or the newest is of another configuration.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.folder / ".lock", timeout=0):
            return _run(task, run)
    except Timeout:
        raise UsageError(
            explain(
                f"Another process is training in {run.folder}.",
                "two runs in one folder would overwrite each other's checkpoints",
                "wait for it, stop it, or choose another --out",
            )
        ) from None


def _run(task: Task, run: Run) -> nn.Module:
    optimization, intervals = run.optimization, run.intervals
    folder = run.folder / "checkpoints"
    newest = checkpoints.latest(folder, report=run.report)
    checkpoints.clear_partial(folder)
    optimizer = build_optimizer(task.model, optimization)
    state = checkpoints.TrainState(task.model, Ema(task.model, optimization.ema_decay), optimizer)
    if newest is not None:
        checkpoints.restore(state, newest, config=run.config)
        run.report(f"resuming at step {state.step}")
    metrics = MetricsFile(run.folder / "metrics.jsonl", state.step)
    saved_step, clock = state.step, Clock(state.step)
    try:
        while state.step < optimization.steps:
            logged = _train_step(task, state, optimization)
            last = state.step == optimization.steps
            if last or state.step % intervals.log == 0:
                values = {name: value.item() for name, value in logged.items()}
                values["samples_per_second"] = clock.rate(state.step) * optimization.batch_size
                metrics.write(state.step, "train", values)
                run.report(_describe(state.step, optimization.steps, values))
            if last or state.step % intervals.validation == 0:
                values = task.validate(state.ema.model)
                metrics.write(state.step, "validation", values)
                run.report(_describe(state.step, optimization.steps, values, prefix="validation "))
            if run.sample is not None and (last or state.step % intervals.sample == 0):
                run.sample(state.ema.model, run.folder / "samples" / f"step-{state.step:08d}.png")
            stopping = run.stop()  # asked once: the answer may change while we save
            if last or stopping or state.step % intervals.save == 0:
                checkpoints.save(state, folder, config=run.config, keep=intervals.keep)
                saved_step = state.step
            if stopping and not last:
                raise TrainingStoppedError(f"Stopped at step {state.step}; the same command goes on from there.")
    except KeyboardInterrupt:
        if saved_step < state.step and state.whole:
            checkpoints.save(state, folder, config=run.config, keep=intervals.keep)
        raise
    return state.ema.model


def _train_step(task: Task, state: checkpoints.TrainState, config: OptimizationConfig) -> dict[str, Tensor]:
    indices = batch_indices(state.step, task.num_samples, config.batch_size, config.seed)
    loss, logged = task.loss(indices, state.step, step_generator(config.seed, state.step))
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.clip)
    if not torch.isfinite(loss + norm):
        raise TrainingDivergedError(
            f"Loss {loss.item()} and gradient norm {norm.item()} at step {state.step}: not finite.\n"
            "  why: the learning rate is too high, or a sample is broken\n"
            "  do:  lower the learning rate; the update was not made and the last checkpoint is sound"
        )
    rate = learning_rate(state.step, config)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.whole = False
    state.optimizer.step()
    state.ema.update(task.model, state.step)
    state.step += 1
    state.whole = True
    return {"loss": loss.detach(), "gradient_norm": norm, "learning_rate": torch.tensor(rate), **logged}


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of every draw of one step."""
    word = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def batch_indices(step: int, num_samples: int, batch_size: int, seed: int) -> Tensor:
    """Samples of a step: every epoch a new permutation, every sample once an epoch."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    picked = [_permutation(num_samples, seed, int(p) // num_samples)[int(p) % num_samples] for p in positions]
    return torch.stack(picked)


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(num_samples, generator=step_generator(seed, 2**40 + epoch))


class Clock:
    """Steps a second since the last question."""

    def __init__(self, step: int) -> None:
        self.time, self.step = time.perf_counter(), step

    def rate(self, step: int) -> float:
        now = time.perf_counter()
        rate = (step - self.step) / (now - self.time)
        self.time, self.step = now, step
        return rate


class MetricsFile:
    """JSON lines, one a log interval. Lines past the resumed step are dropped: those steps will be made again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
        path.write_text("".join(kept), encoding="utf-8")

    def write(self, step: int, phase: str, values: Metrics) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "phase": phase, "time": time.time(), **values}) + "\n")


def _describe(step: int, steps: int, values: Metrics, *, prefix: str = "") -> str:
    shown = {name: value for name, value in values.items() if "/" not in name}
    return f"{prefix}step {step}/{steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
