"""Sample sheets during training: captions drawn by the very pipeline users call, or images and reconstructions."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from bitvar.data.index import SampleIndex, is_index
from bitvar.data.samples import read_samples
from bitvar.files import atomic_path, write_text
from bitvar.imaging.convert import to_image
from bitvar.imaging.open import ImageLimits, Location, RefusedError, decode_image
from bitvar.imaging.pixels import to_signed
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid
from bitvar.scales import Grid
from bitvar.tokenizer import ImageTokenizer
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.tokenizer.data import ImageData

SHEET: Final = 8
"""Images on a sheet of reconstructions."""

DRAWN: Final = 16
"""Captions on a sheet of drawings."""

PROMPTS: Final = "prompts.txt"
"""Beside the sheets: the captions they are drawn from, one a line, in their order."""


@dataclass(frozen=True)
class Sheet:
    """What sample sheets show: captions of the run's own data, and their images for comparison.

    Attributes:
        captions: drawn from, one drawing each.
        images: the real ones, in the same order.
    """

    captions: list[str]
    images: list[Image.Image]


def choose_samples(
    data: Path, *, seed: int = 0, count: int = DRAWN, fit: Callable[[Sequence[str]], list[str]] = list
) -> Sheet:
    """A seeded choice of held-out samples, or of training samples where none are held out.

    Args:
        data: a captioned set or an index.
        seed: Seed of the run.
        count: how many at most.
        fit: cuts captions to what the model reads.
    """
    samples = _samples_of(data)
    chosen = np.random.default_rng(seed).permutation(len(samples))
    found: list[tuple[str, Image.Image]] = []
    for number in chosen.tolist():
        if len(found) == count:
            break
        caption, image = samples[number]
        with contextlib.suppress(RefusedError):  # the run itself tells of samples that can't be read
            limits = ImageLimits(min_side=1, max_ratio=math.inf)
            found.append((caption, decode_image(image.read(max_bytes=limits.max_bytes), limits)))
    return Sheet(fit([caption for caption, _ in found]), [image for _, image in found])


def _samples_of(data: Path) -> Sequence[tuple[str, Location]]:
    """First captions and images of the split that is held out, or of the one that is trained on."""
    if is_index(data):
        index = SampleIndex.open(data)
        splits = {group.split for group in index.groups}
        groups = [group for group in index.groups if group.split == ("val" if "val" in splits else "train")]
        return _IndexSamples(index, [n for group in groups for n in range(group.start, group.start + group.count)])
    samples = read_samples(data, split=None)
    held_out = [sample for sample in samples if sample.split == "val"]
    chosen = held_out or [sample for sample in samples if sample.split == "train"]
    return [(sample.captions[0], Location(sample.path)) for sample in chosen]


class _IndexSamples(Sequence[tuple[str, Location]]):
    """Samples of an index by number, read when they are asked for."""

    def __init__(self, index: SampleIndex, numbers: list[int]) -> None:
        self._index, self._numbers = index, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: Any) -> Any:
        sample = self._index[self._numbers[i]]
        return sample.captions[0], sample.image


@runtime_checkable
class Draws(Protocol):
    """What a sheet needs of a pipeline."""

    def __call__(self, prompt: Sequence[str], **options: Any) -> Any: ...


def sample_grid(pipeline: Draws, path: Path, sheet: Sheet, *, seed: int = 0) -> None:
    """Write a PNG of strips: real images above, and below each what the model draws from its caption.

    The captions go into `prompts.txt` beside it.
    """
    drawn = list(pipeline(sheet.captions, seed=seed).images)
    columns = min(SHEET, max(1, len(drawn)))
    images, texts = [], []
    for start in range(0, len(drawn), columns):
        part = slice(start, start + columns)
        blank = [Image.new("RGB", (1, 1), "white")] * (columns - len(drawn[part]))
        images += [*sheet.images[part], *blank, *drawn[part], *blank]
        texts += [*["real"] * len(drawn[part]), *[""] * len(blank), *sheet.captions[part], *[""] * len(blank)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.parent / PROMPTS, "".join(" ".join(caption.split()) + "\n" for caption in sheet.captions))
    with atomic_path(path) as temporary:
        contact_sheet(images, texts, columns=columns).save(temporary, format="PNG")


def reconstruction_sheet(
    tokenizer: ImageTokenizer, data: ImageData, schedules: Sequence[Sequence[Grid]], path: Path
) -> None:
    """Write a PNG of the first held-out images: as they are, decoded from half of the scales, and from all."""
    rows: list[list[Image.Image]] = [[], [], []]
    micro_batches = [
        MicroBatch(0, bucket, torch.arange(min(count, SHEET)), 0, 0) for bucket, count in enumerate(data.counts)
    ]
    for batch in data.batches(micro_batches):
        images = to_signed(batch.images.to(tokenizer.device))
        with torch.inference_mode():
            steps = list(
                tokenizer.encode_scales(tokenizer.features(images), schedules[data.schedules[batch.micro_batch.bucket]])
            )
            coarse, fine = (tokenizer.decode(steps[k].latent) for k in ((len(steps) - 1) // 2, -1))
        for row, pixels in zip(rows, (images, coarse, fine), strict=True):
            row += [to_image(one) for one in pixels]
        if len(rows[0]) >= SHEET:
            break
    captions = [text for text in ("image", "half of the scales", "all scales") for _ in rows[0][:SHEET]]
    cells = [cell for row in rows for cell in row[:SHEET]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        contact_sheet(cells, captions, columns=len(rows[0][:SHEET])).save(temporary, format="PNG")


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 8, cell: int = 160
) -> Image.Image:
    """Draw images in rows on white, each with a caption of at most two lines below it."""
    tiles = [Tile(image, [Caption(text, max_lines=2)]) for image, text in zip(images, captions, strict=True)]
    style = GridStyle(caption_height=30, line_height=13)
    return draw_grid(tiles, columns=columns, cell=(cell, cell), style=style)
