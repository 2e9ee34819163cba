r"""The first stage of the embedded model's transformer, for a GPU: 10.6 M parameters, 85 tokens of 64 bits.

bitvar data icons data/icons64-60k --still --scenes 60000
bitvar train recipes/icons/transformer_gpu.py --data data/icons64-60k --out runs/icons-gpu --name icons --device cuda \
    --tokenizer src/bitvar/pretrained/general --text-encoder src/bitvar/pretrained/icons/text_encoder

The model in the package is the checkpoint at step 1,124, after three and a half minutes on an H200 shared with two
other runs, finished by `finish.py`. For a CPU, `transformer.py` is a smaller model. Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TransformerTraining


def recipe() -> TransformerTraining:
    small = run_path(str(Path(__file__).with_name("transformer.py")))["recipe"]()
    sizes = {"depth": 8, "width": 256, "num_heads": 4, "text_adapter_width": 256}
    longer = {"steps": 5000, "batch_size": 256, "warmup_steps": 150, "ema_decay": 0.998, "precision": "bf16"}
    return small.model_copy(
        update={
            "model": small.model.model_copy(update=sizes),
            "optimization": small.optimization.model_copy(update=longer),
            "intervals": IntervalConfig(log=50, validation=1000, sample=2500, save=500),
        }
    )
