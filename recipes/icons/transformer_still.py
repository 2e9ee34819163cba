r"""The embedded model's second stage: the same transformer, on scenes whose objects keep their places.

bitvar data icons data/icons64-still --still --scenes 12000
bitvar train recipes/icons/transformer_still.py --data data/icons64-still --out runs/icons-still \
    --init runs/icons/checkpoints/step-00002100 \
    --tokenizer runs/icons-tokenizer/model --text-encoder MINILM_FOLDER --name icons

Stage one (transformer.py) learns what the words mean; with objects anywhere, its drawings stay soft for long. On still
scenes the same drawing falls on the same tokens, and details come sooner. Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("transformer.py")))["recipe"]()
    return first.model_copy(
        update={
            "optimization": OptimizationConfig(
                steps=1500, batch_size=32, learning_rate=1e-3, warmup_steps=50, ema_decay=0.995, seed=1
            ),
            "intervals": IntervalConfig(log=20, validation=300, sample=300, save=300),
            "max_flip_strength": 0.2,
        }
    )
