r"""Make a set of moved, scaled and mirrored images of an icon set, on which the place of things can't be guessed.

bitvar data icons data/icons64 --still
python scripts/icons/moved.py data/icons64 data/icons64-moved --train 5000

The embedded model knows its training images by heart, so that their edges tell it nothing new. In a moved image, only
the edges say where things are: `recipes/icons/control.py` trains on such images. An image keeps its background, and is
mirrored only if no caption names a side.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from bitvar.data.samples import Sample, load_image, read_samples
from bitvar.weights.digests import atomic_folder

SEED: Final = 0
SMALLEST: Final = 0.55
"""Least scale of a moved image; the largest is 1.1."""
LARGEST: Final = 1.1
UNMOVED: Final = 0.2
"""Share of the images that stay as they are."""
SIDES: Final = re.compile(r"\b(left|right)\b")
CAPTIONS: Final = 2
"""Captions kept of each image: the one that names the style, and one that doesn't."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--val", type=int, default=300)
    arguments = parser.parse_args()
    generator = np.random.default_rng(SEED)
    with atomic_folder(arguments.out) as folder:
        (folder / "images").mkdir()
        rows = []
        for split, count in (("train", arguments.train), ("val", arguments.val)):
            samples = read_samples(arguments.data, split=split)
            for number in generator.permutation(len(samples))[:count].tolist():
                name = f"images/{split}-{number:06d}.png"
                move(samples[number], generator).save(folder / name)
                rows.append({"image_path": name, "captions": samples[number].captions[:CAPTIONS], "split": split})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "samples.jsonl").write_text(text, encoding="utf-8")


def move(sample: Sample, generator: np.random.Generator) -> Image.Image:
    """Scale a sample's image and move it within its frame, on the colour of its corner; mirror half of those that may.

    At least three quarters of the image stay inside along each axis. One in five stays as it is.
    """
    image = load_image(sample)
    width, height = image.size
    draws = generator.random(5)
    if draws[4] < UNMOVED:
        return image
    if draws[0] < 0.5 and not any(SIDES.search(caption) for caption in sample.captions):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = SMALLEST + (LARGEST - SMALLEST) * draws[1]
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    moved = Image.new("RGB", image.size, image.getpixel((0, 0)))
    left, top = (
        round((outer - own) * draw * 1.5 - (outer - own) * 0.25)
        for outer, own, draw in zip(image.size, inner, draws[2:4], strict=True)
    )
    moved.paste(image.resize(inner, Image.Resampling.LANCZOS), (left, top))
    return moved


if __name__ == "__main__":
    main()
