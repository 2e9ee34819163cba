"""The results of a pipeline's call: the images at the end, and the state after each scale."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from bitvar import __version__, arguments
from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.imaging.convert import RGBA_CHANNELS, to_numpy, to_pil
from bitvar.pipeline.image_files import save_images
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.request import MAX_SIDE, Background
from bitvar.runtime.out_of_memory import explained_memory
from bitvar.scales import Grid
from bitvar.tokenizer import InfinityTokenizer


@dataclass(frozen=True)
class GenerationOutput:
    """The images of a call.

    Attributes:
        images: Images in the requested form: PIL images, uint8 arrays `(b, H, W, c)`, floats in [-1, 1] `(b, c, H, W)`,
            or the bits of every scale. PIL images and arrays are RGB, or RGBA with straight alpha if they are
            transparent. Floats are the model's own channels whatever the background: RGB, or the image on white and
            its opacity.
        seeds: Seed of each image.
        metadata: One dictionary per image, enough to generate it again: its prompt, its seed, every setting, the model,
            `dtype`, `device` and `batch_invariant`; `width` and `height` as generated; `requested_width` and
            `requested_height`, None if no size was requested; `background` if it isn't "auto".
    """

    images: Any
    seeds: list[int]
    metadata: list[dict[str, Any]]

    def save(self, where: str | Path) -> list[Path]:
        """Write the images with their settings inside, so that `bitvar generate --from FILE` reproduces them.

        Args:
            where: A file (`x.png`, `x.webp`, `x.jpg`), numbered if there are several images; a pattern with `{seed}`,
                `{prompt}` or `{index}`; or a folder, in which files are named by prompt and seed and none is
                overwritten.

        Raises:
            UsageError: for another suffix, two images with the same name, an output of bits, or JPEG if the background
                was to be transparent.
        """
        where = arguments.checked("where", where, arguments.path)
        records = [ImageRecord.of(metadata, version=__version__) for metadata in self.metadata]
        background = records[0].background if records else "auto"
        return save_images(as_pil(self.images, background), records, where)


@dataclass(frozen=True)
class ScaleEvent:
    """A finished scale of a call.

    Attributes:
        index: Index of the scale, from 0.
        total: Number of scales.
        grid: Rows and columns of the scale, in tokens.
        tokens_done, tokens_total: Number of tokens generated so far, and in total.
        seeds: Seed of each image.
        metadata: As in `GenerationOutput`.
        bits: Bits of the scales so far, each `(b, d, h_k, w_k)` in tokenizer cells.
    """

    index: int
    total: int
    grid: Grid
    tokens_done: int
    tokens_total: int
    seeds: list[int]
    metadata: list[dict[str, Any]]
    bits: tuple[Bool[Tensor, "b d _ _"], ...]
    _latent: Tensor = field(repr=False)
    _tokenizer: InfinityTokenizer = field(repr=False)
    _batch_invariant: bool
    _background: Background = "auto"
    _finish: Callable[[int, Image.Image], Image.Image] | None = field(default=None, repr=False)

    @cached_property
    def pixels(self) -> Float[Tensor, "b c H W"]:
        """The images so far, in [-1, 1]: decoded on first access, each by itself if the call is batch-invariant.

        They have the model's own channels: RGB, or the image on white and its opacity.

        Raises:
            ComputationError: when the decoder gives NaN or infinity.
            OutOfMemoryError: when decoding does not fit the memory.
        """
        tokenizer = self._tokenizer
        parts = [row.clone() for row in self._latent.split(1)] if self._batch_invariant else [self._latent]
        with torch.inference_mode(), explained_memory("the decoder's activations"):
            pixels = torch.cat([tokenizer.reconstruct(part) for part in parts])
            what = f"the decoder's pixels at scale {self.index + 1} of {self.total}"
            require_finite(pixels, what, precision=tokenizer.dtype)
            return pixels.clamp(-1, 1)

    def only(self, index: int) -> "ScaleEvent":
        """Return the event of one image of the call, so that only that image is decoded.

        Args:
            index: Index of the image, from 0.

        Raises:
            UsageError: for an index that no image of the call has.
        """
        if not 0 <= index < len(self.seeds):
            raise UsageError(f"There is no image {index}.", f"the call has {len(self.seeds)}, counted from 0")
        finish = self._finish
        rows = slice(index, index + 1)
        return replace(
            self,
            seeds=self.seeds[rows],
            metadata=self.metadata[rows],
            bits=tuple(scale[rows] for scale in self.bits),
            _latent=self._latent[rows],
            _finish=None if finish is None else lambda _, image: finish(index, image),
        )

    def preview(self, size: int | None = None) -> list[Image.Image]:
        """The images so far, on the background of the request, with the longer side resized to `size` pixels.

        Those of an exact edit are put into the image that is edited, and have its size.
        """
        if size is not None:
            size = arguments.checked("size", size, side_in_range)
        images = to_pil(_on_background(self.pixels, self._background))
        if self._finish is not None:
            images = [self._finish(index, image) for index, image in enumerate(images)]
        if size is None:
            return images
        return [image.resize(_fit(image.size, size), Image.Resampling.LANCZOS) for image in images]


def as_pil(images: Any, background: Background = "auto") -> list[Image.Image]:
    """Convert the images of an output, in any form, to PIL images.

    Args:
        images: Images of a `GenerationOutput`.
        background: Background that was requested.
    """
    if isinstance(images, Tensor):
        return to_pil(_on_background(images, background))
    if isinstance(images, np.ndarray):
        return [Image.fromarray(array) for array in images]
    if not all(isinstance(image, Image.Image) for image in images):
        why = "it was made with output_type='bits', which decodes nothing"
        raise UsageError("The output holds no images.", why, "leave output_type out, and save the result")
    return list(images)


def as_form(event: ScaleEvent, form: str) -> Any:
    """Return the images of the last scale in the form that `output_type` names."""
    if form == "bits":
        return event.bits
    if form == "pt":
        return event.pixels
    if form == "pil":
        return event.preview()
    if event._finish is not None:
        return np.stack([np.asarray(image) for image in event.preview()])
    return to_numpy(_on_background(event.pixels, event._background))


def _on_background(pixels: Float[Tensor, "b c H W"], background: Background) -> Float[Tensor, "b _ H W"]:
    """Leave the opacity out if the background is opaque; the other channels are the image on white."""
    return pixels[:, :3] if background == "opaque" and pixels.shape[1] == RGBA_CHANNELS else pixels


def _fit(size: tuple[int, int], longer: int) -> tuple[int, int]:
    factor = longer / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def side_in_range(value: Any) -> int:
    """Convert a side in pixels to a plain number. Raises ValueError if it is out of range."""
    number = arguments.whole_number(value)
    if not 1 <= number <= MAX_SIDE:
        raise ValueError(f"it must lie between 1 and {MAX_SIDE:,}, got {arguments.shown(number)}")
    return number
