r"""A transformer of the experiments: the embedded model's data, scales and optimizer, with a given size and length.

bitvar data icons data/icons64 --still
bitvar train recipes/experiments/transformer.py --recipe-arg depth=4 --recipe-arg width=96 \
    --data data/icons64 --out runs/on --name on \
    --tokenizer src/bitvar/pretrained/general --text-encoder src/bitvar/pretrained/icons/text_encoder

Runs differ only in their `--recipe-arg` values. docs/experiments.md lists the sizes with their parameters at 64 bits,
the commands and their cost. Every run there sees 24,000 samples, about one epoch.
"""

from typing import Final

from bitvar.errors import UsageError
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig, TransformerConfig

GRIDS: Final = ((1, 1), (2, 2), (4, 4), (8, 8))
HEAD_WIDTH: Final = 32
FLIPS: Final = {"on": (0.2, True), "off": (0.0, True), "plain": (0.2, False)}
"""Maximum flip strength, and whether finer targets are quantised after the flips, by name."""


def recipe(
    depth: int = 4,
    width: int = 96,
    bits: int = 64,
    patch: int = 2,
    flips: str = "on",
    steps: int = 1500,
    seed: int = 0,
) -> TransformerTraining:
    """Configure a transformer run of the experiments.

    Args:
        depth: Number of blocks.
        width: Channels of a token and of the adapted text, a multiple of 32.
        bits: Bits per token: the tokenizer's bits per cell, times 4 if `patch` is 2.
        patch: Tokenizer cells per token side, 1 or 2.
        flips: "on" for self-correction, "off" for no flips, "plain" for flips without requantised targets.
        steps: Number of steps, with 16 samples each.
        seed: Seed of the initial weights, the sample order and all random draws.
    """
    if flips not in FLIPS:
        raise UsageError(f"There are no flips {flips!r}.", f"known are {', '.join(FLIPS)}", "use one of them")
    strength, requantize_after_flip = FLIPS[flips]
    return TransformerTraining(
        model=TransformerConfig(
            depth=depth,
            width=width,
            num_heads=max(1, width // HEAD_WIDTH),
            bits=bits,
            patch_size=patch,
            text_width=768,
            max_text_tokens=64,
            text_adapter_depth=2,
            text_adapter_width=width,
            schedules=(ScheduleConfig(grids=GRIDS, reference=(8, 8)),),
        ),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=steps,
            batch_size=16,
            learning_rate=4e-3,
            warmup_steps=min(100, steps // 10),
            ema_decay=0.99,
            precision="fp32",
            seed=seed,
        ),
        intervals=IntervalConfig(log=50, validation=500, sample=100_000, save=500, keep=1),
        max_flip_strength=strength,
        requantize_after_flip=requantize_after_flip,
        initial_gamma=1.0,
    )
