r"""Structure control for the embedded model: a small adapter that makes icons follow the lines of a drawing.

bitvar data icons data/icons64 --still
bitvar train recipes/icons/control.py --data data/icons64 --init icons --out runs/lines
bitvar generate "a red car" --control runs/lines/control --control-image drawing.png

The base model is frozen; the maps are the edges of the training images. Training takes half an hour on one CPU core.
An adapter for another model: change the recipe's `model` and the levels in `ControlSettings.channels`.

Cost and results: docs/structure-control.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.control.config import ControlSettings
from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {
        "optimizer": "adamw",
        "steps": 600,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "warmup_steps": 30,
        "ema_decay": 0.99,
        "clip": 1.0,
        "precision": "bf16",
    }
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=300, sample=300, save=50),
            "control": ControlSettings(),
        }
    )
