r"""The paper's text-to-image runs (arXiv 2412.04431): nine sizes, three stages of increasing resolution.

torchrun --nproc-per-node 8 -m bitvar.cli.main train recipes/paper.py --recipe-arg size=2B --recipe-arg pixels=256 \
    --data INDEX --tokenizer TOKENIZER --text-encoder ENCODER --activation-checkpointing --micro-batch 128 \
    --out runs/2b-256
torchrun --nproc-per-node 8 -m bitvar.cli.main train recipes/paper.py --recipe-arg size=2B --recipe-arg pixels=512 \
    --data INDEX --tokenizer TOKENIZER --text-encoder ENCODER --activation-checkpointing --micro-batch 64 \
    --init runs/2b-256/model --out runs/2b-512

`--fit` prints the largest micro-batch that fits; launch scripts for several machines are in scripts/launch.

Each stage starts from the previous one. The 1024 px stage starts from 512 px and uses the best of the images.

The paper specifies the steps of each stage, the batch size and learning rate at 256 and 1024 px, the betas of AdamW,
gradient clipping, prompt dropout and self-correction. At 512 px, batch size and learning rate are NOT the paper's: the
batch of 3072 lies between its two, and the rate of 3.5e-5 is the geometric mean of its two. The learning rate is
constant, as in the authors' script. The paper mentions neither weight decay nor weight averaging. This recipe uses no
weight decay, and averages the weights over about ten thousand steps.

Expect a first loss of ln 2 = 0.693, a bit accuracy of about 80 % in a healthy run, and the validation losses of
`VALIDATION_LOSS` at the end of the 256 px stage, read off the paper's plot. They depend on the data, so compare the
order of the sizes and their differences rather than absolute values. For the cost, see `expected_hours` and the table
in docs/recipes.md. This recipe has not been run here.
"""

from typing import Final

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.official_schedules import SQUARES
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.expected_work import expected_work
from bitvar.transformer import PRESETS

STEPS: Final = {256: 150_000, 512: 110_000, 1024: 60_000}
BATCH_SIZES: Final = {256: 4096, 512: 3072, 1024: 2048}
LEARNING_RATES: Final = {256: 6e-5, 512: 3.5e-5, 1024: 2e-5}

VALIDATION_LOSS: Final = {"125M": 0.471, "361M": 0.451, "940M": 0.437, "2.2B": 0.427, "4.7B": 0.419}
"""Validation loss in nats per bit at the end of the 256 px stage, from the paper's plot."""


def recipe(size: str = "125M", pixels: int = 256) -> TransformerTraining:
    """Configure one stage for one size.

    Args:
        size: Name of a preset in `transformer/config.py:PRESETS`. "2B" and "8B" are those of the published models.
        pixels: Side of a square image: 256, 512 or 1024. Other aspect ratios have equally many pixels.
    """
    if size not in PRESETS:
        raise UsageError(unknown(f"size {size!r}", size, list(PRESETS)))
    if pixels not in SQUARES:
        raise UsageError(unknown(f"pixels {pixels}", str(pixels), [str(known) for known in SQUARES]))
    return TransformerTraining(
        model=PRESETS[size].model_copy(update={"budgets": (SQUARES[pixels],)}),
        optimization=OptimizationConfig(
            optimizer="adamw",
            steps=STEPS[pixels],
            batch_size=BATCH_SIZES[pixels],
            learning_rate=LEARNING_RATES[pixels],
            warmup_steps=0,
            final_learning_rate=1.0,
            betas=(0.9, 0.97),
            weight_decay=0.0,
            clip=5.0,
            ema_decay=0.9999,
            precision="bf16",
        ),
        intervals=IntervalConfig(log=100, validation=5000, sample=5000, save=2500),
        max_flip_strength=0.3,
        condition_dropout=0.1,
    )


def expected_hours(size: str, pixels: int) -> float:
    """Estimate the H100-hours of a stage, as `--fit` does."""
    return expected_work(recipe(size, pixels)).hours
