r"""A new style for the embedded model, trained as a LoRA adapter of a few megabytes.

bitvar data import my_style/ data/style --size 64
bitvar train recipes/icons/lora.py --data data/style --init icons --out runs/style
bitvar generate "a prompt of yours" --lora runs/style/lora

Use a few hundred images in one style, whose captions all name the style. Training takes a quarter of an hour on one
CPU core. docs/lora.md shows the result for one style.
"""

from pathlib import Path
from runpy import run_path

from bitvar.lora.layers import LoraSettings
from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {
        "optimizer": "adamw",
        "steps": 400,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "ema_decay": 0.97,
    }
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=50, sample=100, save=50),
            "lora": LoraSettings(rank=16, alpha=16.0),
        }
    )
