r"""Structure control for the embedded model: a small adapter that makes icons follow the lines of a drawing.

bitvar data icons data/icons64 --still
python scripts/icons/moved.py data/icons64 data/icons64-moved
bitvar train recipes/icons/control.py --data data/icons64-moved --init icons --out runs/lines
bitvar generate "a red car" --control runs/lines/control --control-image drawing.png

The base model is frozen; the maps are the edges of the training images, which are moved, since the model knows by heart
where things are on the images that it was trained on. The coarse scales, which decide the layout, weigh more. Training
takes a quarter of an hour on one CPU core. For another model, change the recipe's `model`, and give
`ControlSettings.channels` a number for each halving from pixels to the tokenizer's cells.

Cost and results: docs/structure-control.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.control.config import ControlSettings
from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {
        "steps": 250,
        "batch_size": 16,
        "learning_rate": 6e-3,
        "warmup_steps": 20,
        "ema_decay": 0.99,
        "clip": 1.0,
        "precision": "bf16",
    }
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=125, sample=250, save=50),
            "reweighted": True,
            "control": ControlSettings(),
        }
    )
