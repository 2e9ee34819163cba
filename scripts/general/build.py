r"""The training images of the tokenizer `general`: icons, and crops of photographs.

bitvar data icons data/icons64 --still
bitvar data icons data/icons64-jittered
python scripts/photographs/build.py data/photographs
python scripts/general/build.py data/general --icons data/icons64 --icons data/icons64-jittered \
    --photographs data/photographs/train

The script writes a folder of PNG files for `bitvar train --data`. It takes only the training split of the icon sets.
From each photograph it cuts `--crops` squares at random positions. Their sides lie between `--side` pixels and the
shorter side of the photograph, uniformly on a logarithmic scale, and they are scaled to `--side` (smaller photographs
are magnified). Half of the crops are mirrored. `--plain` adds images of 1, 2 x 2, 3 x 3 or 4 x 4 random colours, as
squares or blended. The same command always writes the same files.
"""

import argparse
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from bitvar.data.samples import read_samples
from bitvar.data.walking import list_files
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, decode_image

SMALLEST: Final = 64
"""Smallest side of a photograph in pixels. A photograph smaller than `--side` is magnified."""

SEED: Final = 0
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--icons", type=Path, action="append", default=[], help="a set of icons, 64 pixels a side")
    parser.add_argument("--photographs", type=Path, action="append", default=[], help="a folder of photographs")
    parser.add_argument("--crops", type=int, default=40, help="number of crops of each photograph (default: 40)")
    parser.add_argument("--side", type=int, default=64, help="side of each crop in pixels (default: 64)")
    parser.add_argument(
        "--plain", type=int, default=0, help="number of images of flat colours and gradients (default: 0)"
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists():
        raise UsageError(f"Can't make {out}.", "it exists already", "choose another folder, or delete it")
    arriving = out.with_name(out.name + ".partial")
    shutil.rmtree(arriving, ignore_errors=True)
    num_icons = sum(copy_icons(folder, arriving / folder.name) for folder in arguments.icons)
    if arguments.plain:
        draw_plain(arriving / "plain", arguments.plain, arguments.side)
    num_crops = sum(
        cut_crops(folder, arriving / "photographs", arguments.crops, arguments.side) for folder in arguments.photographs
    )
    arriving.rename(out)
    print(f"{num_icons} icons and {num_crops} crops of photographs, {arguments.plain} plain images in {out}")  # noqa: T201


def copy_icons(icons: Path, out: Path) -> int:
    """Copy the training images of an icon set. Return their number."""
    samples = read_samples(icons, split="train")
    for sample in samples:
        path = out / sample.path.relative_to(icons)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, path)
    return len(samples)


def cut_crops(photographs: Path, out: Path, num_crops: int, side: int) -> int:
    """Write `num_crops` random squares of every photograph, scaled to `side` pixels. Return their number."""
    paths, _ = list_files(photographs, SUFFIXES)
    for number, path in enumerate(paths):
        image = decode_image(path.read_bytes(), ImageLimits(min_side=SMALLEST))
        rng = np.random.default_rng([SEED, number])
        folder = out / path.stem
        folder.mkdir(parents=True)
        for crop in range(num_crops):
            draw_crop(image, side, rng).save(folder / f"{crop:03d}.png")
    return len(paths) * num_crops


def draw_crop(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square out of the image, and scale it to `side` pixels."""
    shorter = min(image.size)
    smallest = min(side, shorter)
    cut = round(smallest * (shorter / smallest) ** rng.random())
    left, top = (int(rng.integers(0, length - cut + 1)) for length in image.size)
    crop = image.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + cut, top + cut))
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def draw_plain(out: Path, count: int, side: int) -> None:
    """Write images of a few random colours with random contrast, as squares or blended."""
    rng = np.random.default_rng([SEED, count, side])
    out.mkdir(parents=True)
    for number in range(count):
        cells, contrast, middle = int(rng.integers(1, 5)), rng.random(), rng.random(3)
        colours = np.clip(middle + contrast * (rng.random((cells, cells, 3)) - 0.5), 0, 1)
        resample = Image.Resampling.NEAREST if rng.random() < 0.5 else Image.Resampling.BICUBIC
        small = Image.fromarray((255 * colours).round().astype(np.uint8))
        small.resize((side, side), resample).save(out / f"{number:05d}.png")


if __name__ == "__main__":
    main()
