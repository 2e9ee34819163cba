"""Candidates of a comparison: tokenizers, and the baselines JPEG and WebP at their rate."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from bitvar.codec import ImageCodec
from bitvar.metrics.per_scale import count_cells, count_set_bits, residual_share


@dataclass(frozen=True)
class ScaleResult:
    """Reconstructions of a tokenizer that stops after a scale.

    Attributes:
        images: Images decoded from the scales so far, with the tokenizer's channels.
        bits: Number of bits of an image, this scale's included.
        set_bits: Number of cells in which each bit is set, `(d,)`.
        cells: Number of cells of all images.
        residual: Norm of the residual before and after the scale, relative to the features' norm, `(2, b)`.
    """

    images: UInt8[np.ndarray, "b H W c"]
    bits: int
    set_bits: Float[Tensor, " d"]
    cells: int
    residual: Float[Tensor, "2 b"]


@dataclass(frozen=True)
class Result:
    """A candidate's reconstructions of images of one size.

    Attributes:
        images: Decoded images, with the candidate's channels; those of four are laid on white.
        bits: Number of bits of each image: the payload of a tokenizer, the whole file of a format.
        too_large: Whether each image's file is too large even at the lowest quality; formats only.
        scales: Reconstructions after each scale, coarse to fine; tokenizers only.
    """

    images: UInt8[np.ndarray, "b H W c"]
    bits: list[int]
    too_large: Bool[np.ndarray, " b"]
    scales: list[ScaleResult] = field(default_factory=list)


def reconstruct(codec: ImageCodec, images: UInt8[np.ndarray, "b H W c"], *, refine_steps: int = 0) -> Result:
    """Encode images with a tokenizer and decode them after every scale.

    Args:
        codec: Tokenizer.
        images: Images of one size, with the tokenizer's channels (`ImageCodec.encode_batch`).
        refine_steps: Number of refinement steps of the encoding (`ImageCodec.encode`).
    """
    header, features, steps = codec.encode_batch(images, refine_steps=refine_steps)
    before, bits, scales = torch.ones_like(features[:, 0, 0, 0]), 0, []
    for step in steps:
        bits += step.bits[0].numel()
        after = residual_share(features, step.latent)
        scale = ScaleResult(
            images=codec.latent_to_pixels(step.latent, header),
            bits=bits,
            set_bits=count_set_bits(step.bits),
            cells=count_cells(step.bits),
            residual=torch.stack([before, after]).double().cpu(),
        )
        scales.append(scale)
        before = after
    return Result(scales[-1].images, [bits] * len(images), np.zeros(len(images), bool), scales)


@dataclass(frozen=True)
class FileFormat:
    """An image format of Pillow's, with the options that give the smallest files.

    Attributes:
        name: Pillow's name of the format.
        qualities: Lowest and highest quality.
        options: Options for saving.
        max_side: Largest side in pixels.
    """

    name: str
    qualities: tuple[int, int]
    options: dict[str, Any]
    max_side: int

    def nearest(self, pixels: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[bytes, bool]:
        """Compress an image to the size in bytes nearest to `size`, by a binary search over the qualities.

        Returns:
            The file, and whether it is larger than `size` even at the lowest quality.
        """
        image = Image.fromarray(pixels)
        low, high = self.qualities
        below, above = None, None
        while low <= high:
            quality = (low + high) // 2
            file = io.BytesIO()
            image.save(file, self.name, quality=quality, **self.options)
            data = file.getvalue()
            if len(data) <= size:
                below, low = data, quality + 1
            else:
                above, high = data, quality - 1
        near = [data for data in (below, above) if data is not None]
        return min(near, key=lambda data: abs(len(data) - size)), below is None

    def compress(self, images: UInt8[np.ndarray, "b H W 3"], sizes: Sequence[int]) -> Result:
        """Compress images to files of about `sizes` bytes each and decode them."""
        files = [self.nearest(pixels, size) for pixels, size in zip(images, sizes, strict=True)]
        decoded = [np.asarray(Image.open(io.BytesIO(data), formats=[self.name]).convert("RGB")) for data, _ in files]
        return Result(
            np.stack(decoded), [8 * len(data) for data, _ in files], np.array([missed for _, missed in files])
        )


FORMATS: Final = {
    "jpeg": FileFormat("JPEG", (1, 100), {"optimize": True, "subsampling": "4:2:0"}, 65_500),
    "webp": FileFormat("WEBP", (0, 100), {"method": 6}, 16_383),
}
