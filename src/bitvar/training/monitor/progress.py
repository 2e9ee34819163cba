"""How far a run is and how fast, and the lines that say so."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, runtime_checkable

from bitvar.training.config import OptimizationConfig
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.engine.optim import learning_rate


class Work(NamedTuple):
    """What a sample is to a step: tokens, and floating-point operations if they are known, else 0."""

    tokens: int
    operations: float


@runtime_checkable
class Worker(Protocol):
    """What knows the work of a sample: a task of the loop."""

    def work(self, bucket: int) -> Work: ...


class Throughput:
    """What one rank did since the last question, and how fast."""

    def __init__(self) -> None:
        self.time, self.samples, self.tokens, self.operations = time.perf_counter(), 0, 0, 0.0

    def add(self, batch: Any, task: Worker) -> None:
        """Count a batch, which has its `MicroBatch` as `part`."""
        part: MicroBatch = batch.part
        self.samples += len(part)
        tokens, operations = task.work(part.bucket)
        self.tokens += len(part) * tokens
        self.operations += len(part) * operations

    def read(self, ranks: int, peak: float | None) -> dict[str, float]:
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


def describe_step(step: int, steps: int, values: Mapping[str, float]) -> str:
    """A line of the log: the step and a few figures. `metrics.jsonl` has all of them, with all digits."""
    return "  ".join([f"step {step}/{steps}", *describe_figures(values)])


def describe_figures(values: Mapping[str, float]) -> list[str]:
    """Loss and the like, speed, and the time left, as far as they are there: five texts at most."""
    parts = []
    for name in ("loss", "psnr", "accuracy", "validation loss", "validation psnr"):
        if name in values:
            number = f"{values[name]:.1%}" if name == "accuracy" else f"{values[name]:.4f}"
            number = f"{values[name]:.2f} dB" if name.endswith("psnr") else number
            parts.append(f"{'validation' if name.startswith('validation') else name} {number}")
    if rate := values.get("samples_per_second"):
        parts.append(f"{rate:.3g} samples/s" if rate < 1000 else f"{rate:,.0f} samples/s")
    if math.isfinite(left := values.get("seconds_left", math.inf)):
        parts.append(f"left {timedelta(seconds=round(left))}")
    return parts


def describe_extension(step: int, before: int, after: int, optimization: OptimizationConfig) -> str:
    """What an extended run does to the learning rate."""
    old = optimization.model_copy(update={"steps": before})
    was, now = learning_rate(max(0, step - 1), old), learning_rate(step, optimization)
    return (
        f"extended from {before:,} to {after:,} steps: from here on the learning rate follows the schedule of"
        f" {after:,} steps, {now:.3g} at the next step (the last one had {was:.3g}) down to"
        f" {learning_rate(after - 1, optimization):.3g}"
    )
