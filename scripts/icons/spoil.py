r"""Spoil real scenes in known ways, to test the scenes benchmark: folders for `bitvar evaluate scenes --images`.

python scripts/icons/spoil.py --data data/icons64 --out spoilt
bitvar evaluate scenes data/icons64 -o runs/spoilt --images blurred=spoilt/blurred \
    --images mirrored=spoilt/mirrored --images recoloured=spoilt/recoloured --images noise=spoilt/noise

- `blurred`: a Gaussian of a twentieth of the side. Hurts most where objects stand side by side and run together.
- `mirrored`: left and right swapped. Hurts position alone, in the half of its prompts that say left or right.
- `recoloured`: every hue turned by a third of the circle. Hurts where a colour or a background is named.
- `noise`: no scenes at all. Every image is incorrect.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from bitvar.evaluation.benchmarks.base import EvalPrompt
from bitvar.icons.benchmark.scenes import eval_prompts, reference_images

BLUR: Final = 0.05
HUE_STEPS: Final = 256
SEED: Final = 0


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Spoil the real scenes in known ways.")
    parser.add_argument("--data", type=Path, required=True, help="the icon set")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    scenes = reference_images(options.data, eval_prompts())
    rng = np.random.default_rng(SEED)
    ways: dict[str, Callable[[Image.Image], Image.Image]] = {
        "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(BLUR * image.width)),
        "mirrored": ImageOps.mirror,
        "recoloured": recolour,
        "noise": lambda image: Image.fromarray(rng.integers(0, 256, (*image.size[::-1], 3), dtype=np.uint8)),
    }
    for name, way in ways.items():
        for scene in scenes:
            save(way(Image.fromarray(scene.open())), options.out / name, scene.prompt)


def recolour(image: Image.Image) -> Image.Image:
    """Turn every hue by a third of the circle; white, grey and black stay."""
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(step + HUE_STEPS // 3) % HUE_STEPS for step in range(HUE_STEPS)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def save(image: Image.Image, folder: Path, prompt: EvalPrompt) -> None:
    """Save an image under the name by which `--images` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{prompt.id}.png")


if __name__ == "__main__":
    main()
