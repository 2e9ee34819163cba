r"""One tokenizer of the vocabulary experiment: the embedded model's shape and set, with so many bits a cell.

bitvar data icons data/icons64 --still
for bits in 8 16 24 32 64; do
    bitvar train recipes/vocabulary/tokenizer.py --with bits=$bits --data data/icons64 --out runs/d$bits --name d$bits
done

Nothing but the bits differs between two runs, so that what they reconstruct compares. A run has 1,000 steps, less
than a fifth of the embedded model's. `recipes/vocabulary/compare.py` draws the result.
"""

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def recipe(bits: int = 32) -> TokenizerTraining:
    """`bits` of a cell; the codebook has 2 to that power of codes."""
    return TokenizerTraining(
        model=TokenizerConfig(
            bits=bits, base_channels=16, channel_multipliers=(1, 2, 4, 8), res_blocks=1, norm_groups=8
        ),
        schedules=(GRIDS,),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=1000,
            batch_size=16,
            learning_rate=4e-3,
            warmup_steps=100,
            clip=1.0,
            ema_decay=0.995,
            precision="fp32",
        ),
        intervals=IntervalConfig(log=50, validation=500, save=500),
        commitment=0.25,
        entropy=0.03,
        truncation=0.1,
    )
