r"""Measure what a tokenizer of the sticker set keeps: PSNR, sharpness and outlines, with a sheet of pairs.

python scripts/icons/reconstruct.py runs/stickers-tokenizer/model --data data/stickers --sheet pairs.png

The numbers are printed as JSON. Sharpness is the median ratio of high-frequency energy, reconstruction to original; an
outline's error is the mean absolute error of the opacity within two pixels of it.
"""

import argparse
import json
import sys
from pathlib import Path
from runpy import run_path
from typing import Final

import torch
from torch import Tensor

from bitvar.data.samples import load_images, read_samples
from bitvar.imaging.convert import to_pil
from bitvar.imaging.pixels import to_signed
from bitvar.imaging.sheet import GridStyle, Tile, draw_grid
from bitvar.metrics.distances import psnr
from bitvar.metrics.sharpness import high_frequency_energy, outline_error
from bitvar.tokenizer import InfinityTokenizer
from bitvar.weights.model_folder import load_component

BATCH: Final = 20
PAIRS: Final = 24
"""Images on the sheet, each beside its reconstruction."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure a tokenizer of the sticker set.")
    parser.add_argument("tokenizer", type=Path, help="folder of the tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="the sticker set")
    parser.add_argument("--images", type=int, default=200, help="validation images to measure")
    parser.add_argument("--scales", type=int, help="decode only the first scales; default: all")
    parser.add_argument("--sheet", type=Path, help="PNG file of pairs")
    given = parser.parse_args()
    grids = run_path(str(Path("recipes/icons/stickers_tokenizer.py")))["GRIDS"]
    tokenizer = load_component(InfinityTokenizer, given.tokenizer)
    images = to_signed(
        load_images(
            list(read_samples(given.data, split="val"))[: given.images], channels=tokenizer.config.image_channels
        )
    )
    decoded = reconstruct(tokenizer, images, grids, given.scales or len(grids))
    outlines = outline_error(opacity(decoded), opacity(images))
    ratios = high_frequency_energy(decoded) / high_frequency_energy(images)
    found = {
        "images": len(images),
        "scales": given.scales or len(grids),
        "psnr_db": round(psnr(decoded[:, :3], images[:, :3]).mean().item(), 2),
        "sharpness": round(ratios.median().item(), 3),
        "outline_error": round(outlines[~outlines.isnan()].mean().item(), 4),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    if given.sheet is not None:
        tiles = [
            Tile(side) for pair in zip(to_pil(images[:PAIRS]), to_pil(decoded[:PAIRS]), strict=True) for side in pair
        ]
        draw_grid(tiles, columns=8, cell=(256, 256), style=GridStyle(group=2, background="#dddddd")).save(given.sheet)


@torch.inference_mode()
def reconstruct(
    tokenizer: InfinityTokenizer, images: Tensor, grids: tuple[tuple[int, int], ...], scales: int
) -> Tensor:
    """Encode images in [-1, 1] to bits, and decode them from the first scales."""
    rows = []
    for part in images.split(BATCH):
        steps = list(tokenizer.encode_scales(tokenizer.features(part), grids))
        rows.append(tokenizer.decode(steps[scales - 1].latent).clamp(-1, 1))
    return torch.cat(rows)


def opacity(images: Tensor) -> Tensor:
    """Take the fourth channel of images in [-1, 1] to [0, 1]."""
    return (images[:, 3:4] + 1) / 2


if __name__ == "__main__":
    main()
