r"""The embedded model as an instruction editor ("make the car green"), an adapter of three megabytes.

python scripts/icons/instruct.py data data/edits64
python scripts/icons/instruct.py train data/edits64 runs/edits
python scripts/icons/instruct.py judge data/edits64 runs/edits/editor

`bitvar train` would train on the edited images alone. Cost and results: docs/instruction-editing.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.lora.layers import LoraSettings
from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {
        "optimizer": "adamw",
        "precision": "bf16",
        "steps": 800,
        "batch_size": 16,
        "learning_rate": 1.5e-3,
        "warmup_steps": 30,
        "ema_decay": 0.98,
    }
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=100, sample=10**9, save=25),
            "lora": LoraSettings(rank=32, alpha=32.0),
            "reweighted": True,
        }
    )
