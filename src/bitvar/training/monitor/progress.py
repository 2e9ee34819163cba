"""Training throughput, and the lines of text that show a run's progress."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, runtime_checkable

from bitvar.training.config import OptimizationConfig
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.engine.optim import learning_rate


class SampleCost(NamedTuple):
    """The cost of one sample in a training step.

    Attributes:
        tokens: Number of image tokens; 0 for a model without tokens.
        flops: Floating-point operations of the forward and backward pass; 0 if unknown.
    """

    tokens: int
    flops: float


@runtime_checkable
class SampleCosts(Protocol):
    """Interface of a task that knows the cost of a sample."""

    def sample_cost(self, bucket: int) -> SampleCost: ...


class Throughput:
    """Counter of the samples, tokens and operations of one rank, which reports rates since the last reading."""

    def __init__(self) -> None:
        self.time, self.samples, self.tokens, self.flops = time.perf_counter(), 0, 0, 0.0

    def add(self, batch: Any, costs: SampleCosts) -> None:
        """Count a batch, whose attribute `micro_batch` is its `MicroBatch`."""
        micro_batch: MicroBatch = batch.micro_batch
        self.samples += len(micro_batch)
        tokens, flops = costs.sample_cost(micro_batch.bucket)
        self.tokens += len(micro_batch) * tokens
        self.flops += len(micro_batch) * flops

    def read(self, num_ranks: int, peak_flops: float | None) -> dict[str, float]:
        """Return rates since the last reading, and reset the counts.

        Args:
            num_ranks: Number of ranks; each is assumed to be as fast as this one.
            peak_flops: Peak operations per second of one device, for the utilization; None to leave it out.
        """
        now = time.perf_counter()
        seconds = now - self.time
        values = {"samples_per_second": self.samples * num_ranks / seconds}
        if self.tokens:
            values["tokens_per_second"] = self.tokens * num_ranks / seconds
        if self.flops:
            values["teraflops"] = self.flops * num_ranks / seconds / 1e12
            if peak_flops:
                values["utilization"] = self.flops / seconds / peak_flops
        self.time, self.samples, self.tokens, self.flops = now, 0, 0, 0.0
        return values


def describe_step(step: int, steps: int, values: Mapping[str, float]) -> str:
    """Format a log line: the step and a few metrics. `metrics.jsonl` has every metric in full precision."""
    return "  ".join([f"step {step}/{steps}", *format_metrics(values)])


def format_metrics(values: Mapping[str, float]) -> list[str]:
    """Format the metrics that belong on a log line (losses, accuracy, speed, time left), at most one text each."""
    texts = []
    for name in ("loss", "psnr", "accuracy", "validation loss", "validation psnr"):
        if name in values:
            number = f"{values[name]:.1%}" if name == "accuracy" else f"{values[name]:.4f}"
            number = f"{values[name]:.2f} dB" if name.endswith("psnr") else number
            texts.append(f"{'validation' if name.startswith('validation') else name} {number}")
    if rate := values.get("samples_per_second"):
        texts.append(f"{rate:.3g} samples/s" if rate < 1000 else f"{rate:,.0f} samples/s")
    if math.isfinite(left := values.get("seconds_left", math.inf)):
        texts.append(f"left {timedelta(seconds=round(left))}")
    return texts


def describe_extension(step: int, before: int, after: int, optimization: OptimizationConfig) -> str:
    """Describe how extending a run changes its learning rate.

    Args:
        step: Step that the run resumes from.
        before: Number of steps before the extension.
        after: Number of steps after the extension.
        optimization: Settings of the extended run.
    """
    old = optimization.model_copy(update={"steps": before})
    was, now = learning_rate(max(0, step - 1), old), learning_rate(step, optimization)
    return (
        f"extended from {before:,} to {after:,} steps: from here on the learning rate follows the schedule of"
        f" {after:,} steps, {now:.3g} at the next step (the last one had {was:.3g}) down to"
        f" {learning_rate(after - 1, optimization):.3g}"
    )
