"""The embedded model's tokenizer: 64 x 64 pixels, stride 8, 24 bits a cell, scales 1, 2, 3, 4, 6, 8.

bitvar data icons data/icons64
bitvar train recipes/icons/tokenizer.py --data data/icons64 --out runs/icons-tokenizer --name icons

Cost and results: docs/log.md.
"""

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))


def recipe() -> TokenizerTraining:
    return TokenizerTraining(
        model=TokenizerConfig(bits=24, base_channels=24, channel_multipliers=(1, 2, 4, 8), res_blocks=1, norm_groups=8),
        grids=GRIDS,
        optimization=OptimizationConfig(
            steps=1600, batch_size=32, learning_rate=1e-3, warmup_steps=100, clip=1.0, ema_decay=0.995
        ),
        intervals=IntervalConfig(log=20, validation=400, save=200),
        commitment=0.25,
        entropy=0.03,
        truncation=0.1,
    )
