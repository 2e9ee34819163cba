r"""A tokenizer of a published size, trained at all official aspect ratios in one run, or a published one adapted.

bitvar data index images/ indexes/images
bitvar train recipes/tokenizer.py --recipe-arg size=d32 --data indexes/images --out runs/d32 --name d32 --device cuda

bitvar convert infinity_vae_d32.pth models/d32-tokenizer
bitvar train recipes/tokenizer.py --recipe-arg size=d32 --recipe-arg trained=decoder --recipe-arg steps=20000 \
    --recipe-arg rate=2e-5 --init models/d32-tokenizer --data indexes/images --out runs/d32-decoder --name d32 \
    --device cuda

`--data` may also be a folder of images. The loss sums L1 and L2, a perceptual distance, a patch discriminator that
starts late with an adaptive weight, a commitment loss and an entropy penalty. A tenth of the batches are decoded from
coarse scales only. This recipe has not been run at full size here: loss weights, learning rate and steps are starting
points.
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
    """Configure a tokenizer run.

    Args:
        size: Published size: d16, d24, d32 or d64, or d56_f8, which the 8B models read in patches of 2 x 2 cells.
        pixels: Side of a square image: 256, 512 or 1024. Other aspect ratios have equally many pixels.
        trained: Part of the tokenizer to train: all, decoder or encoder.
        steps: Number of steps.
        batch: Number of samples per step.
        rate: Learning rate.
        perceptual: Network of the perceptual distance: mobilenet or lpips.
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
        perceptual=1.0 if perceptual == "lpips" else 0.1,  # the MobileNetV2 distance has ten times the range of LPIPS
        adversarial=0.2,
        adversarial_start=steps // 4,
        discriminator_width=64,
        discriminator_levels=3,
        truncation=0.1,
        **values,
    )
