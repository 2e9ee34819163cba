r"""The embedded model, taught to draw without guidance what it draws with guidance.

bitvar data icons data/icons64 --still
bitvar train recipes/icons/distil_guidance.py --data data/icons64 --init icons --out runs/distilled --name distilled

Guidance computes every scale twice. The targets are the initial model's own guided probabilities, so a distilled model
has the guided model's look at half of the cost. Another strength: `--recipe-arg guidance=4`. A step costs some 1.7
times one of ordinary training.

Cost and results: docs/performance.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe(guidance: float = 3.0) -> TransformerTraining:
    first = run_path(str(Path(__file__).with_name("finish.py")))["recipe"]()
    changes = {"steps": 300, "batch_size": 32, "learning_rate": 4e-4, "warmup_steps": 20, "ema_decay": 0.98}
    return first.model_copy(
        update={
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=10, validation=50, sample=100, save=50),
            "guidance_distillation": guidance,
        }
    )
