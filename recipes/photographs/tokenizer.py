r"""A tokenizer trained on icons only, adapted to photographs, a domain new to it.

python scripts/photographs/build.py data/photographs
bitvar train recipes/icons/tokenizer.py --data data/icons64 --out runs/icons-tokenizer --name icons-alone
bitvar train recipes/photographs/tokenizer.py --data data/photographs/train --init runs/icons-tokenizer/model \
    --out runs/photographs --name photographs

The run trains on random crops at two sizes. `--recipe-arg trained=decoder` leaves the bits unchanged, so that a
transformer trained on them still fits. docs/tokenizer.md has the results.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(trained: str = "all") -> TokenizerTraining:
    """Configure a run that trains all, decoder or encoder of the tokenizer."""
    icons = run_path(str(Path(__file__).parents[1] / "icons" / "tokenizer.py"))["recipe"]()
    (small,) = icons.schedules
    changes = {"steps": 2000, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 50, "ema_decay": 0.99}
    made = icons.model_copy(
        update={
            "schedules": (small, (*small, (16, 16))),  # sides of 64 and 128 pixels at stride 8
            "optimization": icons.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=50, validation=500, sample=500, save=250),
            "smallest_crop": 0.3,
            "mirrored": True,
        }
    )
    return made.override([f"trained={trained}"])
