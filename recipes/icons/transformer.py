r"""A smaller version of the embedded model's transformer, for a CPU: 4.8 M parameters, 85 tokens of 64 bits.

bitvar train recipes/icons/transformer.py --data data/icons64 --out runs/icons \
    --tokenizer src/bitvar/pretrained/general --text-encoder MINILM_FOLDER --name icons

A token covers 2 x 2 cells of the tokenizer.

Cost and results: docs/log.md.
"""

from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig, TransformerConfig

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def recipe() -> TransformerTraining:
    return TransformerTraining(
        model=TransformerConfig(
            depth=6,
            width=192,
            num_heads=3,
            bits=64,
            patch_size=2,
            text_width=768,
            max_text_tokens=64,
            text_adapter_depth=2,
            text_adapter_width=192,
            schedules=(ScheduleConfig(grids=GRIDS, reference=(8, 8)),),
        ),
        optimization=OptimizationConfig(
            optimizer="muon",
            steps=3300,
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
