r"""A small model of your own images, trained from scratch on 2 to 4 CPU cores.

bitvar data import my_images/ data/mine --size 64
bitvar train recipes/cpu.py --data data/mine --out runs/mine --name mine \
    --tokenizer src/bitvar/pretrained/general --text-encoder src/bitvar/pretrained/icons/text_encoder

The model has 3.4 M parameters and 85 tokens at 64 px, and uses the embedded model's frozen tokenizer and text encoder.
Use a thousand or more images of one kind, such as icons, sprites or logos. With fewer images, or with images like the
embedded model's, recipes/icons/finetune.py gives better results in less time.

Cost: 39 GFLOP a step. A step took 1.2 s, the median of ten on one thread of an EPYC core shared with other processes,
so the 3,000 steps take about an hour. The first loss is 0.693. The final loss depends on the data; no whole run of this
recipe has been made here.
"""

from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig, TransformerConfig

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def recipe(steps: int = 3000) -> TransformerTraining:
    """Configure a run of `steps` steps."""
    return TransformerTraining(
        model=TransformerConfig(
            depth=4,
            width=192,
            num_heads=3,
            bits=64,
            patch_size=2,
            text_width=768,
            max_text_tokens=64,
            text_adapter_depth=1,
            text_adapter_width=192,
            schedules=(ScheduleConfig(grids=GRIDS, reference=(8, 8)),),
        ),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=steps,
            batch_size=32,
            learning_rate=4e-3,
            warmup_steps=100,
            ema_decay=0.997,
            precision="fp32",
        ),
        intervals=IntervalConfig(log=20, validation=300, sample=300, save=150),
        max_flip_strength=0.2,
        initial_gamma=1.0,
    )
