r"""A model of some hundred million parameters on one card of 24 GB, such as an RTX 4090 or 3090.

bitvar train recipes/single_gpu_24gb.py --activation-checkpointing --micro-batch 64 --data DATA --tokenizer TOKENIZER \
    --text-encoder ENCODER --out runs/361m
bitvar train recipes/single_gpu_24gb.py --recipe-arg size=940M --activation-checkpointing --micro-batch 16 \
    --data DATA --tokenizer TOKENIZER --text-encoder ENCODER --out runs/940m

All weights are trained. Activations are computed again in the backward pass, and a step's 256 samples pass in
micro-batches of
`part_size`, the most that `costs/training_memory.py` says fit into `AVAILABLE`. The frozen encoders stay on the card
and are not in it: with a large text encoder, `--fit` tells what is left.

Cost by arithmetic: 361M at 256 px is 1.0 TFLOP a sample and 1.4 with the second forward pass; at 40 % of an RTX 4090's
165 TFLOP/s that is 49 samples a second, 73 hours for the 50,000 steps. To be expected: a first loss of 0.693, and a
validation loss above the paper's 0.451, which took 48 times as many samples. Rate and steps are starting points, not
findings: no run of this recipe has been made here. From a model that is trained, take a tenth of the rate.
"""

from pathlib import Path
from runpy import run_path
from typing import Final

from bitvar.costs.training_memory import GIB, MemoryPlan, largest_batch
from bitvar.errors import UsageError
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.expected_work import longest_schedule

BATCH_SIZE: Final = 256

AVAILABLE: Final = 21 * GIB
"""Of a card of 24 GB, what is left for tensors when the driver, the screen and the allocator's gaps have had theirs."""


def plan(size: str, pixels: int) -> MemoryPlan:
    """The memory of a forward pass of one sample of the longest schedule."""
    stage = _stage(size, pixels)
    return MemoryPlan(stage.model, longest_schedule(stage), 1, activation_checkpointing=True)


def part_size(size: str, pixels: int) -> int:
    """Samples that pass at once: the largest power of two that fits, at most 64, which keeps the card busy.

    Raises:
        UsageError: when not one fits.
    """
    most = min(64, largest_batch(plan(size, pixels), AVAILABLE))
    if not most:
        raise UsageError(
            f"{size} at {pixels} px does not fit a card of 24 GB.",
            "weights, gradients, moments and averages take 20 bytes a parameter, and one sample its activations",
            "take a smaller size or fewer pixels, or train adapters",
        )
    return 2 ** (most.bit_length() - 1)


def recipe(size: str = "361M", pixels: int = 256) -> TransformerTraining:
    """The run, for a size of the paper at 256, 512 or 1024 px. 361M fits at each, 940M too."""
    part_size(size, pixels)
    return TransformerTraining(
        model=_stage(size, pixels).model,
        optimization=OptimizationConfig(
            steps=50_000,
            batch_size=BATCH_SIZE,
            learning_rate=1e-4,
            warmup_steps=1000,
            ema_decay=0.9995,
            precision="bf16",
        ),
        intervals=IntervalConfig(log=50, validation=1000, sample=1000, save=500),
    )


def _stage(size: str, pixels: int) -> TransformerTraining:
    return run_path(str(Path(__file__).with_name("paper.py")))["recipe"](size, pixels)
