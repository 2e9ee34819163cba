r"""A tokenizer of the vocabulary experiment: recipes/icons/tokenizer.py with a given number of bits per cell.

bitvar data icons data/icons64 --still
for bits in 8 16 24 32 64; do
    bitvar train recipes/vocabulary/tokenizer.py --recipe-arg bits=$bits --data data/icons64 \
        --out runs/d$bits --name d$bits
done

Runs differ only in the number of bits, so that their reconstructions are comparable. A run has 1,000 steps, less than
a fifth of the icon recipe's. `experiments/vocabulary/compare.py` plots the results.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(bits: int = 32) -> TokenizerTraining:
    """Configure a run with `bits` bits per cell, a codebook of 2 ** `bits` codes."""
    icons = run_path(str(Path(__file__).parents[1] / "icons" / "tokenizer.py"))["recipe"]()
    return icons.model_copy(
        update={
            "model": icons.model.model_copy(update={"bits": bits}),
            "optimization": icons.optimization.model_copy(update={"steps": 1000}),
            "intervals": IntervalConfig(log=50, validation=500, save=500),
        }
    )
