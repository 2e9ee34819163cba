r"""A tokenizer of the published sizes, trained at every official aspect ratio in one run; or a published one, adapted.

bitvar data index images/ indexes/images
bitvar train recipes/tokenizer.py --recipe-arg size=d32 --data indexes/images --out runs/d32 --name d32 --device cuda

bitvar convert infinity_vae_d32.pth models/d32-tokenizer
bitvar train recipes/tokenizer.py --recipe-arg size=d32 --recipe-arg trained=decoder --recipe-arg steps=20000 \
    --recipe-arg rate=2e-5 --init models/d32-tokenizer --data indexes/images --out runs/d32-decoder --name d32 \
    --device cuda

`--data` may be a folder of images too. L1 + L2, a perceptual distance, a patch discriminator that joins late with an
adaptive weight, commitment, entropy, and a tenth of the batches stopped at a coarse scale. Nobody has run it at full
size here: weights of losses, rate and steps are starting points.
"""

from typing import Any

from bitvar.official_schedules import SQUARES, official_schedules
from bitvar.tokenizer import TOKENIZER_PRESETS
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining


def recipe(
    size: str = "d32",
    pixels: int = 256,
    trained: str = "all",
    steps: int = 200_000,
    batch: int = 64,
    rate: float = 1e-4,
    perceptual: str = "mobilenet",
) -> TokenizerTraining:
    """A run.

    Args:
        size: d16, d24, d32 or d64, or d56_f8, whose 2 x 2 patches the 8B models read.
        pixels: 256, 512 or 1024: a square's side; other ratios have as many.
        trained: all, decoder or encoder.
        steps, batch, rate: of the optimisation.
        perceptual: the network of the perceptual distance: mobilenet or lpips.
    """
    model = TOKENIZER_PRESETS[size]
    patch = 16 // model.stride
    grids = tuple(schedule.latent_grids(patch) for schedule in official_schedules([SQUARES[pixels]]))
    values: dict[str, Any] = {"trained": trained, "perceptual_network": perceptual}
    return TokenizerTraining(
        model=model,
        schedules=grids,
        optimization=OptimizationConfig(
            steps=steps,
            batch_size=batch,
            learning_rate=rate,
            warmup_steps=min(5000, steps // 20),
            betas=(0.5, 0.9),
            clip=1.0,
            ema_decay=0.9999,
            precision="bf16",
        ),
        intervals=IntervalConfig(log=50, validation=5000, sample=5000, save=2500),
        smallest_crop=0.5,
        mirrored=True,
        commitment=0.25,
        entropy=0.03,
        perceptual=1.0 if perceptual == "lpips" else 0.1,  # the MobileNetV2 distance has ten times LPIPS's range
        adversarial=0.2,
        adversarial_start=steps // 4,
        discriminator_width=64,
        discriminator_levels=3,
        truncation=0.1,
        **values,
    )
