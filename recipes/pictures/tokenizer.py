r"""The tokenizer `pictures`, in the package: 64 x 64 pixels, stride 4, 16 bits a cell, scales 2, 4, 8, 16.

A transformer that reads its cells in 2 x 2 patches sees scales 1, 2, 4, 8 of 64 bits a token. Icons and crops of
photographs, as `recipes/pictures/build.py` lays them out:

python recipes/pictures/build.py data/pictures --icons data/icons64 --icons data/icons64-jittered \
    --photographs data/photographs/train
bitvar train recipes/pictures/tokenizer.py --data data/pictures --out runs/pictures --name pictures

`recipes/pictures/finish.py` is its second stage. Cost and results: docs/log.md.
"""

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((2, 2), (4, 4), (8, 8), (16, 16))


def recipe() -> TokenizerTraining:
    return TokenizerTraining(
        model=TokenizerConfig(
            bits=16, base_channels=32, channel_multipliers=(1, 3), res_blocks=1, norm_groups=8, pixel_patch=2
        ),
        schedules=(GRIDS,),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=4800,
            batch_size=16,
            learning_rate=4e-3,
            warmup_steps=100,
            clip=1.0,
            ema_decay=0.995,
            precision="fp32",
        ),
        intervals=IntervalConfig(log=50, validation=800, save=200),
        commitment=0.25,
        entropy=0.03,
        truncation=0.1,
    )
