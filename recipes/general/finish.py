r"""The second stage of the tokenizers of `tokenizer.py`: the whole tokenizer, trained further at a lower rate.

Train `general` with the MobileNetV2 distance:

bitvar train recipes/general/finish.py --data data/general --init runs/general/model --out runs/general-finished \
    --name general

Train `fine` at 64, 128 and 256 pixels, with photograph crops of 256 pixels:

python scripts/general/build.py data/fine256 --icons data/icons64-jittered --photographs data/photographs/train \
    --crops 100 --side 256 --plain 2000
bitvar train recipes/general/finish.py --recipe-arg size=fine --data data/fine256 --init runs/fine/model \
    --out runs/fine-finished --name fine --nproc 2

Then train it once more at 64 pixels, with less weight on colour offsets:

bitvar train recipes/general/tokenizer.py --recipe-arg size=fine --data data/fine --init runs/fine-finished/model \
    --out runs/fine-last --name fine --nproc 2 --set multiscale=0.1 --set optimization.steps=8000 \
    --set optimization.batch_size=6 --set optimization.learning_rate=1.5e-3 --set optimization.ema_decay=0.998

For `general32`, add `--recipe-arg size=general32` and use its own data and run. Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import TokenizerTraining

STAGE = (
    "perceptual=0.03",
    "optimization.steps=700", "optimization.learning_rate=1e-3", "optimization.warmup_steps=50",
    "optimization.ema_decay=0.99", "intervals.log=25", "intervals.validation=350", "intervals.save=100",
)  # fmt: skip
SIZES = {
    "fine": (
        "perceptual=0",
        "schedules=[[[2,2],[4,4],[8,8],[16,16],[32,32]],[[4,4],[8,8],[16,16],[32,32],[64,64]],"
        "[[8,8],[16,16],[32,32],[64,64],[128,128]]]",
        "optimization.steps=2400", "optimization.batch_size=4", "optimization.ema_decay=0.998",
        "intervals.log=100", "intervals.validation=1200",
    ),
}  # fmt: skip
"""Settings of a size that override `STAGE`."""


def recipe(size: str = "general") -> TokenizerTraining:
    """Configure the second stage of a size of `tokenizer.py`."""
    first = run_path(str(Path(__file__).with_name("tokenizer.py")))["recipe"](size)
    return first.override([*STAGE, *SIZES.get(size, ())])
