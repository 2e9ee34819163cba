r"""Generate the gallery at the top of README.md, with one seed and no selection.

python scripts/icons/gallery.py docs/images

Writes `gallery.png`, the same with numbers in place of the prompts for blind reading (`gallery-unnamed.png`), prompts
and seed (`gallery.json`), and images after each of their scales (`scales.png`). `bitvar generate PROMPT --seed 0`
reproduces each image. The last two rows come from the held-out prompts: for each skill of `bitvar evaluate scenes` in
turn, the first unseen prompts that name their style, and prompts spread evenly over the drawings that training never
shows.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from bitvar.icons.dataset.prompts import SKILLS, read_prompts
from bitvar.imaging.sheet import wrap_text
from bitvar.pipeline import InfinityPipeline

SECTIONS: Final = {
    "Things, in four artists' styles": (
        "a butterfly, 3D emoji", "a hamburger, flat emoji", "a rainbow, Noto emoji", "a castle, flat emoji",
        "a teddy bear, 3D emoji", "a guitar, Twemoji", "a penguin, flat emoji", "a slice of pizza, 3D emoji",
        "a mushroom, Noto emoji", "a whale, 3D emoji", "a jack-o'-lantern, Twemoji", "a pencil, flat emoji",
        "a unicorn, 3D emoji", "a unicorn, Noto emoji", "a unicorn, Twemoji", "a robot, 3D emoji",
    ),
    "Coloured, on a background, counted": (
        "a blue car, Noto emoji", "a green umbrella, Twemoji", "a purple balloon, 3D emoji",
        "a panda on a pink background, 3D emoji", "an avocado on a purple background, Noto emoji",
        "two bicycles, Twemoji", "three penguins, flat emoji", "four robots, 3D emoji",
    ),
    "Two things, and where": (
        "a cat and a bird, Noto emoji", "a dog to the left of a house, 3D emoji", "a star above a house, Noto emoji",
        "a tree below a crescent moon, Twemoji", "a strawberry and a lemon, 3D emoji",
        "a frog to the right of a cactus, flat emoji", "a hamburger next to a slice of pizza, 3D emoji",
        "a yellow gift and a purple umbrella, flat emoji",
    ),
}  # fmt: skip
UNSEEN: Final = "Put together as never in training"
UNSEEN_DRAWINGS: Final = "Drawings that it never saw, of things that other artists taught it"
COLUMNS: Final = 8
SCALES: Final = ("a fox, 3D emoji", "a slice of pizza, 3D emoji", "three cats, Noto emoji", "a blue car, Noto emoji")
SEED: Final = 0
CELL: Final = 112
GAP: Final = 16
LINE: Final = 13
MAX_LINES: Final = 3
TITLE: Final = 30


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the gallery.")
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument("--model", type=Path, help="a model folder; the embedded model if not given")
    options = parser.parse_args()
    pipeline = InfinityPipeline.from_pretrained(options.model, device="cpu", fast="off")
    sections = all_sections()
    prompts = [prompt for section in sections.values() for prompt in section]
    images = [pipeline(prompt, seed=SEED).images[0] for prompt in prompts]
    options.out.mkdir(parents=True, exist_ok=True)
    sheet(images, sections, numbered=False).save(options.out / "gallery.png", optimize=True)
    sheet(images, sections, numbered=True).save(options.out / "gallery-unnamed.png", optimize=True)
    listed = {"seed": SEED, "sections": {title: list(section) for title, section in sections.items()}}
    (options.out / "gallery.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    coarse_to_fine(pipeline).save(options.out / "scales.png", optimize=True)


def all_sections() -> dict[str, tuple[str, ...]]:
    """List the prompts of each section, the held-out ones last."""
    fixed = read_prompts()
    unseen = [[p.prompt for p in fixed if (p.split, p.skill, p.names_style) == ("unseen", s, True)] for s in SKILLS]
    in_turn = chain.from_iterable(zip(*filter(None, unseen), strict=False))
    drawings = [p.prompt for p in fixed if p.split == "held_out_style"]
    spread = drawings[:: len(drawings) // COLUMNS][:COLUMNS]
    return SECTIONS | {UNSEEN: tuple(islice(in_turn, COLUMNS)), UNSEEN_DRAWINGS: tuple(spread)}


def sheet(images: Sequence[Image.Image], sections: Mapping[str, Sequence[str]], *, numbered: bool) -> Image.Image:
    """Draw rows of images under the titles of their sections; `numbered` replaces all words by numbers."""
    row = CELL + MAX_LINES * LINE + GAP
    heights = [TITLE + -(-len(section) // COLUMNS) * row for section in sections.values()]
    made = Image.new("RGB", (GAP + COLUMNS * (CELL + GAP), GAP + sum(heights)), "white")
    draw, y, number = ImageDraw.Draw(made), GAP, 0
    small, large = (ImageFont.load_default(size) for size in (11, 16))
    for (name, section), height in zip(sections.items(), heights, strict=True):
        if not numbered:
            draw.text((GAP, y), name, fill="#222222", font=large)
        for i, prompt in enumerate(section):
            left, top = GAP + i % COLUMNS * (CELL + GAP), y + TITLE + i // COLUMNS * row
            made.paste(images[number].resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
            number += 1
            caption = str(number) if numbered else prompt
            for j, text in enumerate(wrap_text(caption, small, width=CELL, max_lines=MAX_LINES)):
                draw.text((left, top + CELL + 3 + j * LINE), text, fill="#555555", font=small)
        y += height
    return made


def coarse_to_fine(pipeline: InfinityPipeline) -> Image.Image:
    """Draw a row for each prompt, with the image after each scale."""
    rows = [[step.preview(CELL)[0] for step in pipeline.stream(prompt, seed=SEED)] for prompt in SCALES]
    made = Image.new("RGB", (GAP + len(rows[0]) * (CELL + GAP), GAP + len(rows) * (CELL + GAP)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            made.paste(image, (GAP + x * (CELL + GAP), GAP + y * (CELL + GAP)))
    return made


if __name__ == "__main__":
    main()
