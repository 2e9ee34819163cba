"""A tokenizer for icons only, trained in half an hour: 64 x 64 pixels, stride 8, 32 bits a cell, scales 1, 2, 4, 8.

bitvar data icons data/icons64 --still
bitvar train recipes/icons/tokenizer.py --data data/icons64 --out runs/icons-tokenizer --name icons-alone

Cost and results: docs/log.md.
"""

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def recipe() -> TokenizerTraining:
    return TokenizerTraining(
        model=TokenizerConfig(bits=32, base_channels=16, channel_multipliers=(1, 2, 4, 8), res_blocks=1, norm_groups=8),
        schedules=(GRIDS,),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=5600,
            batch_size=16,
            learning_rate=4e-3,
            warmup_steps=100,
            clip=1.0,
            ema_decay=0.995,
            precision="fp32",
        ),
        intervals=IntervalConfig(log=50, validation=1400, save=400),
        commitment=0.25,
        entropy=0.03,
        truncation=0.1,
    )
