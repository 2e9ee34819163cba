"""Expected cost of a transformer run: floating-point operations, and hours on a known GPU.

Memory is estimated for the schedule with the most tokens, since every batch must fit. Compute is estimated for the
square schedule, since images of all aspect ratios have about equally many pixels.
"""

import math
from dataclasses import dataclass
from typing import Final

from bitvar.costs.devices import PEAK_TFLOPS
from bitvar.costs.flops import training_flops
from bitvar.costs.training_memory import LONG_TEXT
from bitvar.scales import ScaleSchedule
from bitvar.training.config import TransformerTraining

CARD: Final = "H100"

UTILIZATION: Final = 0.4
"""Fraction of the GPU's peak that an efficient run reaches. An assumption, not a measurement."""

SECONDS_AN_HOUR: Final = 3600

TYPICAL_TEXT: Final = 64
"""Number of tokens of a typical prompt."""


@dataclass(frozen=True)
class ExpectedWork:
    """Compute of a whole run. Recomputed activations and the frozen encoders are not counted.

    Attributes:
        schedule: Schedule assumed for every sample.
        text_tokens: Number of tokens assumed for every prompt.
        flops_per_sample: Floating-point operations of one sample's forward and backward pass.
        samples: Number of samples over all steps, counting repeated ones each time.
    """

    schedule: ScaleSchedule
    text_tokens: int
    flops_per_sample: float
    samples: int

    @property
    def hours(self) -> float:
        """Hours on one `CARD` at `UTILIZATION` of its peak."""
        flops_per_second = UTILIZATION * PEAK_TFLOPS[CARD] * 1e12
        return self.flops_per_sample * self.samples / flops_per_second / SECONDS_AN_HOUR


def expected_work(config: TransformerTraining) -> ExpectedWork:
    """Count the operations of a run, assuming square images and long prompts."""
    schedule = square_schedule(config)
    text_tokens = min(LONG_TEXT, config.model.max_text_tokens)
    samples = config.optimization.steps * config.optimization.batch_size
    return ExpectedWork(
        schedule=schedule,
        text_tokens=text_tokens,
        flops_per_sample=training_flops(config.model, schedule, text_tokens=text_tokens),
        samples=samples,
    )


def sample_flops(config: TransformerTraining, schedule: ScaleSchedule) -> float:
    """Count the operations of one sample's forward and backward pass, with a prompt of typical length."""
    return training_flops(config.model, schedule, text_tokens=typical_text_tokens(config))


def typical_text_tokens(config: TransformerTraining) -> int:
    """Return the prompt length, in tokens, that throughput reports assume."""
    return min(TYPICAL_TEXT, config.model.max_text_tokens)


def square_schedule(config: TransformerTraining) -> ScaleSchedule:
    """Return the schedule nearest to a square. The one with the most tokens wins a tie."""
    return min(config.schedules, key=lambda schedule: (_stretch(schedule), -schedule.num_tokens))


def longest_schedule(config: TransformerTraining) -> ScaleSchedule:
    """Return the schedule with the most tokens, which determines the peak memory."""
    return max(config.schedules, key=lambda schedule: schedule.num_tokens)


def _stretch(schedule: ScaleSchedule) -> float:
    height, width = schedule[-1]
    return abs(math.log(height / width))
