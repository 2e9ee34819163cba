"""What a transformer run will cost: its operations, and the hours of a known card that they take.

Memory and work follow two conventions. Memory goes by the schedule with the most tokens, since every batch must fit.
Work goes by the square, since images of all ratios have about as many pixels.
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
"""The share of the card's peak that a good run reaches. An assumption, not a measurement."""

SECONDS_AN_HOUR: Final = 3600

TYPICAL_TEXT: Final = 64
"""Tokens of a prompt of typical length."""


@dataclass(frozen=True)
class ExpectedWork:
    """The work of a whole run. Neither recomputed activations nor the frozen encoders are counted.

    Attributes:
        schedule: the one whose operations count for every sample.
        text_tokens: length of a prompt.
        flops_per_sample: operations of one sample's forward and backward pass.
        samples: number of samples over all steps, repeated ones included.
    """

    schedule: ScaleSchedule
    text_tokens: int
    flops_per_sample: float
    samples: int

    @property
    def hours(self) -> float:
        """Hours of one `CARD` at `UTILIZATION` of its peak."""
        flops_per_second = UTILIZATION * PEAK_TFLOPS[CARD] * 1e12
        return self.flops_per_sample * self.samples / flops_per_second / SECONDS_AN_HOUR


def expected_work(config: TransformerTraining) -> ExpectedWork:
    """Count the operations of a run, each sample as a square with a long prompt."""
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
    """Return the prompt length, in tokens, that reports of speed assume."""
    return min(TYPICAL_TEXT, config.model.max_text_tokens)


def square_schedule(config: TransformerTraining) -> ScaleSchedule:
    """The schedule nearest to a square; of several, the one with the most tokens."""
    return min(config.schedules, key=lambda schedule: (_stretch(schedule), -schedule.num_tokens))


def longest_schedule(config: TransformerTraining) -> ScaleSchedule:
    """The schedule with the most tokens, which decides what fits into memory."""
    return max(config.schedules, key=lambda schedule: schedule.num_tokens)


def _stretch(schedule: ScaleSchedule) -> float:
    height, width = schedule[-1]
    return abs(math.log(height / width))
