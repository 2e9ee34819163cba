r"""The tokenizer of the sticker set: 256 x 256 pixels with transparency, stride 16, 32 bits a cell, six scales.

python scripts/icons/stickers.py data/stickers --sprites data/sprites --downloads data/packages --processes 2
bitvar train recipes/icons/stickers_tokenizer.py --data data/stickers --out runs/stickers-tokenizer --name stickers

A transformer that reads its cells in 2 x 2 patches sees grids of 1, 2, 3, 4, 6 and 8, 130 tokens of 128 bits.

Cost and results: docs/log.md.
"""

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16))


def recipe() -> TokenizerTraining:
    return TokenizerTraining(
        model=TokenizerConfig(
            bits=32,
            base_channels=48,
            channel_multipliers=(1, 2, 3),
            res_blocks=1,
            norm="pixel",
            linear_skip=True,
            code_norms=(5.0, 3.6, 2.6, 1.9, 1.4, 1.0),
            image_channels=4,
            pixel_patch=4,
        ),
        schedules=(GRIDS,),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=30000,
            batch_size=4,
            learning_rate=3e-3,
            warmup_steps=200,
            clip=1.0,
            ema_decay=0.999,
            precision="bf16",
        ),
        intervals=IntervalConfig(log=200, validation=4000, sample=4000, save=500),
        commitment=0.25,
        entropy=0.01,
        truncation=0.05,
        multiscale=0.5,
    )
