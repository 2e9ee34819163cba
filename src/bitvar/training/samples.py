"""Sample sheets during training: prompts drawn by the very pipeline users call, or pictures and reconstructions."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from bitvar.files import atomic_path
from bitvar.scales import Grid
from bitvar.tokenizer import InfinityTokenizer
from bitvar.tokenizer.pixels import to_signed, to_uint8
from bitvar.training.parts import Part
from bitvar.training.picture_data import PictureData

SHEET: Final = 8
"""Pictures on a sheet of reconstructions."""

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


def reconstruction_sheet(
    tokenizer: InfinityTokenizer, data: PictureData, schedules: Sequence[Sequence[Grid]], path: Path
) -> None:
    """Write a PNG of the first held-out pictures: as they are, decoded from half of the scales, and from all."""
    rows: list[list[Image.Image]] = [[], [], []]
    parts = [Part(0, bucket, torch.arange(min(count, SHEET)), 0, 0) for bucket, count in enumerate(data.counts)]
    for batch in data.batches(parts):
        images = to_signed(batch.images.to(tokenizer.device))
        with torch.inference_mode():
            steps = list(tokenizer.steps(tokenizer.features(images), schedules[data.schedules[batch.part.bucket]]))
            coarse, fine = (tokenizer.decode(steps[k].latent) for k in ((len(steps) - 1) // 2, -1))
        for row, pixels in zip(rows, (images, coarse, fine), strict=True):
            row += [to_picture(one) for one in pixels]
        if len(rows[0]) >= SHEET:
            break
    captions = [text for text in ("picture", "half of the scales", "all scales") for _ in rows[0][:SHEET]]
    pictures = [picture for row in rows for picture in row[:SHEET]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        contact_sheet(pictures, captions, columns=len(rows[0][:SHEET])).save(temporary, format="PNG")


def to_picture(pixels: Float[Tensor, "c H W"]) -> Image.Image:
    """For people to look at: grey, or the first three channels as red, green and blue."""
    shown = pixels[:3] if len(pixels) >= 3 else pixels.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return Image.fromarray(np.ascontiguousarray(to_uint8(shown[None])[0].permute(1, 2, 0).cpu().numpy()))


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
