r"""Tokenizers that ship with the package. `general`: 64 x 64 pixels, stride 4, 16 bits a cell, scales 2, 4, 8, 16.

A transformer that reads its cells in 2 x 2 patches sees scales 1, 2, 4, 8 with 64 bits per token. The training data are
icons and crops of photographs, prepared by `scripts/general/build.py`:

python scripts/general/build.py data/general --icons data/icons64 --icons data/icons64-jittered \
    --photographs data/photographs/train
bitvar train recipes/general/tokenizer.py --data data/general --out runs/general --name general

`recipes/general/finish.py` is its second stage. `fine`, also in the package, has stride 2, four times as many bits per
pixel and less than half the parameters:

python scripts/general/build.py data/fine --icons data/icons64-jittered --photographs data/photographs/train \
    --crops 200 --plain 8000
bitvar train recipes/general/tokenizer.py --recipe-arg size=fine --data data/fine --out runs/fine --name fine

`general32` has stride 4 and 32 bits per cell, and is meant for a GPU:

bitvar data icons data/icons64-60k --still --scenes 60000
python scripts/general/build.py data/general32 --icons data/icons64-60k --icons data/icons64-jittered \
    --photographs data/photographs/train --crops 100
bitvar train recipes/general/tokenizer.py --recipe-arg size=general32 --data data/general32 --out runs/general32 \
    --name general32 --device cuda --workers 5

Cost and results: docs/log.md.
"""

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining

GRIDS = ((2, 2), (4, 4), (8, 8), (16, 16))


SIZES = {
    "general": [],
    "general32": [
        "model.bits=32", "model.base_channels=64", "model.norm_groups=32",
        "optimization.steps=1500", "optimization.batch_size=512", "optimization.precision=bf16",
    ],
    "fine": [
        "model.base_channels=64", "model.channel_multipliers=[1]", "model.norm_groups=32",
        "model.norm=pixel", "model.linear_skip=true", "model.code_norms=[5,3.3,2.2,1.5,1]",
        "schedules=[[[2,2],[4,4],[8,8],[16,16],[32,32]]]", "truncation=0.05", "entropy=0.01", "multiscale=0.5",
        "optimization.steps=34000", "optimization.batch_size=3", "optimization.learning_rate=3e-3",
        "optimization.ema_decay=0.999", "optimization.precision=bf16",
        "intervals.log=200", "intervals.validation=4000", "intervals.save=500",
    ],
}  # fmt: skip
"""Settings of each size that override those of `general`, in the form of `--set`."""


def recipe(size: str = "general") -> TokenizerTraining:
    """Configure a run of one of `SIZES`."""
    if size not in SIZES:
        raise UsageError(unknown(f"size {size!r}", size, list(SIZES)))
    general = TokenizerTraining(
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
    return general.override(SIZES[size])
