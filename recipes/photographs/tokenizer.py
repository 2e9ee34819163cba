r"""The embedded tokenizer, adapted to photographs: a domain that it never saw.

python recipes/photographs/build.py data/photographs
bitvar train recipes/photographs/tokenizer.py --data data/photographs/train --init icons --out runs/photographs \
    --name photographs

Random crops at two sizes in one run. `--with trained=decoder` leaves the bits as they are, so that a transformer that
knows them still fits. What it gains is in docs/tokenizer.md.
"""

from typing import Any

from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

SMALL = ((1, 1), (2, 2), (4, 4), (8, 8))
LARGE = (*SMALL, (16, 16))
"""64 and 128 pixels a side, of stride 8."""


def recipe(trained: str = "all") -> TokenizerTraining:
    values: dict[str, Any] = {"trained": trained}
    return TokenizerTraining(
        model=TokenizerConfig(bits=32, base_channels=16, channel_multipliers=(1, 2, 4, 8), res_blocks=1, norm_groups=8),
        schedules=(SMALL, LARGE),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=2000,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=50,
            clip=1.0,
            ema_decay=0.99,
            precision="fp32",
        ),
        intervals=IntervalConfig(log=50, validation=500, sample=500, save=250),
        smallest_crop=0.3,
        mirrored=True,
        commitment=0.25,
        entropy=0.03,
        truncation=0.1,
        **values,
    )
