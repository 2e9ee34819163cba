"""Sample sheets during training, drawn by the very pipeline users call."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from PIL import Image, ImageDraw

from bitvar.files import atomic_path

PROMPTS: Final = (
    "a red apple, 3D emoji",
    "a cat, Noto emoji",
    "a dog, flat emoji",
    "a car, Twemoji",
    "a slice of pizza, 3D emoji",
    "a guitar, Noto emoji",
    "a house, flat emoji",
    "a fish, Twemoji",
    "a red heart",
    "a blue car",
    "a cat on a yellow background",
    "three apples",
    "a cat and a dog",
    "a car to the left of a tree",
    "a star above a house",
    "a red car and a blue balloon",
)


@runtime_checkable
class Draws(Protocol):
    """What a sheet needs of a pipeline."""

    def __call__(self, prompt: Sequence[str], **options: Any) -> Any: ...


def sample_grid(pipeline: Draws, path: Path, *, prompts: Sequence[str] = PROMPTS, seed: int = 0) -> None:
    """Write a PNG of one picture a prompt, each with its prompt below."""
    images = pipeline(list(prompts), seed=seed).images
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        contact_sheet(images, prompts).save(temporary, format="PNG")


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 8, cell: int = 160
) -> Image.Image:
    """Pictures in rows, captions below them, on white."""
    rows = -(-len(images) // columns)
    line = 30
    sheet = Image.new("RGB", (columns * (cell + 8) + 8, rows * (cell + line + 8) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 8 + i % columns * (cell + 8), 8 + i // columns * (cell + line + 8)
        sheet.paste(image.resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        for row, text in enumerate(textwrap.wrap(caption, cell // 6)[:2]):
            draw.text((x, y + cell + 2 + row * 12), text, fill="black")
    return sheet
