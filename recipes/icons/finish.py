r"""The second stage of the embedded model's transformer: decay to a small learning rate, on a CPU.

bitvar data icons data/icons64 --still
bitvar train recipes/icons/finish.py --data data/icons64 --init runs/icons-gpu/model --out runs/icons --name icons

Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("transformer_gpu.py")))["recipe"]()
    changes = {"steps": 640, "batch_size": 64, "learning_rate": 1.5e-3, "warmup_steps": 20, "ema_decay": 0.99}
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes | {"precision": "fp32"}),
            "intervals": IntervalConfig(log=10, validation=200, sample=200, save=50),
        }
    )
