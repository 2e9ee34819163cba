r"""The tokenizer `pictures`, second stage: all of it, on with the MobileNetV2 distance, at a quarter of the rate.

bitvar train recipes/pictures/finish.py --data data/pictures --init runs/pictures/model --out runs/pictures-finished \
    --name pictures

For `pictures32`, add `--with size=pictures32` and its own data and run. Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(perceptual: float = 0.03, size: str = "pictures") -> TokenizerTraining:
    """`perceptual` weighs the MobileNetV2 distance; `size` is as of `tokenizer.py`."""
    first = run_path(str(Path(__file__).with_name("tokenizer.py")))["recipe"](size)
    changes = {"steps": 700, "learning_rate": 1e-3, "warmup_steps": 50, "ema_decay": 0.99}
    return first.model_copy(
        update={
            "perceptual": perceptual,
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=25, validation=350, save=100),
        }
    )
