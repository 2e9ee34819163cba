r"""Further training of a finished tokenizer's decoder: sharper images from the same bits, so transformers still fit.

bitvar data icons data/icons64 --still
bitvar train recipes/icons/tokenizer.py --data data/icons64 --out runs/icons-tokenizer --name icons-alone
bitvar train recipes/icons/decoder.py --data data/icons64 --init runs/icons-tokenizer/model --out runs/icons-decoder \
    --name icons-alone

docs/tokenizer.md has the results.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(perceptual: float = 0.03) -> TokenizerTraining:
    """Configure a run in which the MobileNetV2 distance has weight `perceptual`."""
    first = run_path(str(Path(__file__).with_name("tokenizer.py")))["recipe"]()
    changes = {"steps": 1500, "learning_rate": 5e-4, "warmup_steps": 100, "ema_decay": 0.99}
    return first.model_copy(
        update={
            "trained": "decoder",
            "perceptual": perceptual,
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=50, validation=500, sample=500, save=250),
        }
    )
