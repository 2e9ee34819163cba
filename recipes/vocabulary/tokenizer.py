r"""One tokenizer of the vocabulary experiment: recipes/icons/tokenizer.py with so many bits a cell.

bitvar data icons data/icons64 --still
for bits in 8 16 24 32 64; do
    bitvar train recipes/vocabulary/tokenizer.py --recipe-arg bits=$bits --data data/icons64 \
        --out runs/d$bits --name d$bits
done

Nothing but the bits differs between two runs, so that what they reconstruct compares. A run has 1,000 steps, less
than a fifth of that recipe's. `experiments/vocabulary/compare.py` draws the result.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(bits: int = 32) -> TokenizerTraining:
    """`bits` of a cell; the codebook has 2 to that power of codes."""
    icons = run_path(str(Path(__file__).parents[1] / "icons" / "tokenizer.py"))["recipe"]()
    return icons.model_copy(
        update={
            "model": icons.model.model_copy(update={"bits": bits}),
            "optimization": icons.optimization.model_copy(update={"steps": 1000}),
            "intervals": IntervalConfig(log=50, validation=500, save=500),
        }
    )
