"""Draw the figures of docs/tutorial.md from the files that its commands leave behind.

python scripts/docs/tutorial_images.py FOLDER docs/images

FOLDER is where the commands of the tutorial ran.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.files import atomic_path
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid

STYLE: Final = GridStyle(gap=12, margin=10, outline="#cccccc", caption_height=24)
CELL: Final = (160, 160)
FIGURES: Final[Mapping[str, Mapping[str, str]]] = {
    "tutorial-scales.png": {f"after scale {k}": f"steps/scale-0{k}-1.png" for k in (1, 2, 3, 4)},
    "tutorial-edit.png": {"apple.png": "apple.png", "green.png": "green.png", "coarse.png": "coarse.png"},
    "tutorial-blueprints.png": {
        "a blueprint of a fish": "blueprints/fish.png",
        "a blueprint of a tent": "blueprints/tent.png",
        "before training": "before.png",
        "after 60 steps": "after.png",
    },
}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the figures of docs/tutorial.md.")
    parser.add_argument("folder", type=Path, help="where the commands ran")
    parser.add_argument("out", type=Path, help="folder")
    arguments = parser.parse_args()
    for name, files in FIGURES.items():
        tiles = []
        for caption, file in files.items():
            with Image.open(arguments.folder / file) as image:
                enlarged = image.convert("RGB").resize(CELL, Image.Resampling.NEAREST)
            tiles.append(Tile(enlarged, (Caption(caption),)))
        with atomic_path(arguments.out / name) as partial:
            draw_grid(tiles, columns=len(tiles), cell=CELL, style=STYLE).save(partial, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
