r"""Fine-tuning of the embedded model on a small set of your own images.

bitvar data import my_images/ data/mine --size 64
bitvar train recipes/icons/finetune.py --data data/mine --init icons --out runs/mine --name mine

Use a few hundred images; training takes minutes on two CPU cores. The learning rate is a tenth of the first training's,
so that the model forgets little. Watch the validation loss: the checkpoint with the lowest one is kept, and
`bitvar export runs/mine models/mine --best --init icons` turns it into a model.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {
        "steps": 200,
        "batch_size": 32,
        "learning_rate": 4e-4,
        "warmup_steps": 20,
        "ema_decay": 0.98,
    }
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=50, sample=100, save=50),
        }
    )
