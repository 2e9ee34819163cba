r"""The transformer of the sticker set: 16 M parameters, 130 tokens of 128 bits in six scales.

bitvar train recipes/icons/stickers_transformer.py --data data/stickers --out runs/stickers --name stickers \
    --tokenizer runs/stickers-tokenizer/model --text-encoder src/bitvar/pretrained/icons/text_encoder

A token covers 2 x 2 cells of the tokenizer of `stickers_tokenizer.py`.

Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig

GRIDS = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))


def recipe() -> TransformerTraining:
    """Configure a run on a GPU, or a long one on a CPU."""
    icons = run_path(str(Path(__file__).with_name("transformer_gpu.py")))["recipe"]()
    tokenizer = run_path(str(Path(__file__).with_name("stickers_tokenizer.py")))["recipe"]().model
    sizes = {
        "depth": 8,
        "width": 320,
        "num_heads": 5,
        "bits": 4 * tokenizer.bits,
        "code_norms": tokenizer.code_norms,
        "text_adapter_width": 320,
        "schedules": (ScheduleConfig(grids=GRIDS, reference=GRIDS[-1]),),
    }
    longer = {"steps": 6000, "batch_size": 128, "warmup_steps": 200, "learning_rate": 3e-3}
    return icons.model_copy(
        update={
            "model": icons.model.model_copy(update=sizes),
            "optimization": icons.optimization.model_copy(update=longer),
            "intervals": IntervalConfig(log=50, validation=1000, sample=2000, save=500),
        }
    )
