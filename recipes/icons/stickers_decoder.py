r"""Further training of the sticker tokenizer's decoder: sharper edges from the same bits, so transformers still fit.

bitvar train recipes/icons/stickers_decoder.py --data data/stickers --init runs/stickers-tokenizer/model \
    --out runs/stickers-decoder --name stickers
bitvar evaluate reconstruction data/stickers -o runs/sharpness --tokenizer before=runs/stickers-tokenizer/model \
    --tokenizer after=runs/stickers-decoder/model

Squared errors make a decoder blur where the bits leave doubt; the MobileNetV2 distance and a discriminator ask for
edges instead.

Cost and results: docs/log.md.
"""

from pathlib import Path
from runpy import run_path

from bitvar.training.config import IntervalConfig, TokenizerTraining


def recipe(perceptual: float = 0.05, adversarial: float = 0.1) -> TokenizerTraining:
    """Configure a run with these weights of the MobileNetV2 distance and of the discriminator."""
    first = run_path(str(Path(__file__).with_name("stickers_tokenizer.py")))["recipe"]()
    changes = {"steps": 3000, "learning_rate": 5e-4, "warmup_steps": 100, "ema_decay": 0.995}
    return first.model_copy(
        update={
            "trained": "decoder",
            "perceptual": perceptual,
            "adversarial": adversarial,
            "adversarial_start": 200,
            "optimization": first.optimization.model_copy(update=changes),
            "intervals": IntervalConfig(log=50, validation=1000, sample=1000, save=250),
        }
    )
