"""What is compared: tokenizers, and JPEG and WebP at their rate. Images in, images and numbers of bits out."""

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


@dataclass(frozen=True)
class ScaleResult:
    """What a tokenizer's images are when stopped after a scale.

    Attributes:
        images: decoded from the scales so far.
        bits: of an image, this scale's included.
        set_bits: how many cells have each bit set, `(d,)`.
        cells: how many there are, over the images.
        residual: the norm of what the latent lacks before and after the scale, of the features' norm, `(2, b)`.
    """

    images: UInt8[np.ndarray, "b H W 3"]
    bits: int
    set_bits: Float[Tensor, " d"]
    cells: int
    residual: Float[Tensor, "2 b"]


@dataclass(frozen=True)
class Result:
    """What a contender makes of images of one size.

    Attributes:
        images: decoded.
        bits: spent on each image: the payload of a tokenizer, the whole file of a format.
        too_large: whether each image's file is too large at the lowest quality; formats only.
        scales: coarse to fine; tokenizers only.
    """

    images: UInt8[np.ndarray, "b H W 3"]
    bits: list[int]
    too_large: Bool[np.ndarray, " b"]
    scales: list[ScaleResult] = field(default_factory=list)


def reconstruct(codec: ImageCodec, images: UInt8[np.ndarray, "b H W 3"], *, passes: int = 0) -> Result:
    """Images through a tokenizer, encoded in so many passes (`ImageCodec.encode`), decoded after every scale."""
    header, features, steps = codec.encode_batch(images, refine_steps=passes)
    norm = torch.linalg.vector_norm(features, dim=(1, 2, 3)).clamp(min=1e-12)
    before, bits, scales = torch.ones_like(norm), 0, []
    for step in steps:
        bits += step.bits[0].numel()
        after = torch.linalg.vector_norm(features - step.latent, dim=(1, 2, 3)) / norm
        scale = ScaleResult(
            images=codec.latent_to_pixels(step.latent, header),
            bits=bits,
            set_bits=step.bits.sum(dim=(0, 2, 3)).double().cpu(),
            cells=len(images) * step.bits[0, 0].numel(),
            residual=torch.stack([before, after]).double().cpu(),
        )
        scales.append(scale)
        before = after
    return Result(scales[-1].images, [bits] * len(images), np.zeros(len(images), bool), scales)


@dataclass(frozen=True)
class FileFormat:
    """An image format of Pillow's, at its best for small files.

    Attributes:
        name: Pillow's.
        qualities: its first and last.
        options: for saving.
        max_side: pixels that a side may have.
    """

    name: str
    qualities: tuple[int, int]
    options: dict[str, Any]
    max_side: int

    def nearest(self, pixels: UInt8[np.ndarray, "H W 3"], size: int) -> tuple[bytes, bool]:
        """The file whose size in bytes is nearest to `size`, by a binary search over the qualities.

        Returns:
            The file, and whether `size` was missed: every quality that was tried is larger, the lowest among them.
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
        """Images through files of about `sizes` bytes each."""
        files = [self.nearest(pixels, size) for pixels, size in zip(images, sizes, strict=True)]
        decoded = [np.asarray(Image.open(io.BytesIO(data), formats=[self.name]).convert("RGB")) for data, _ in files]
        return Result(
            np.stack(decoded), [8 * len(data) for data, _ in files], np.array([missed for _, missed in files])
        )


FORMATS: Final = {
    "jpeg": FileFormat("JPEG", (1, 100), {"optimize": True, "subsampling": "4:2:0"}, 65_500),
    "webp": FileFormat("WEBP", (0, 100), {"method": 6}, 16_383),
}
