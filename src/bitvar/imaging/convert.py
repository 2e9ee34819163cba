"""Conversion between arrays, tensors and PIL images. Only this file moves the channel axis.

Arrays have their channels last and tensors first, as NumPy with PIL and PyTorch have them. `pixels` maps bytes to
[-1, 1] and back.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from bitvar.imaging.pixels import to_signed, to_uint8


def channels_first(images: Shaped[np.ndarray, "*b H W c"]) -> Shaped[Tensor, "*b c H W"]:
    """Make a tensor of an array, values unchanged. They share memory where the array is contiguous and writable."""
    array = np.ascontiguousarray(images)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).movedim(-1, -3)


def channels_last(images: Shaped[Tensor, "*b c H W"]) -> Shaped[np.ndarray, "*b H W c"]:
    """Make an array of a tensor, values unchanged."""
    return images.movedim(-3, -1).cpu().numpy()


def to_numpy(pixels: Float[Tensor, "b c H W"]) -> UInt8[np.ndarray, "b H W c"]:
    """Convert pixels in [-1, 1] to bytes."""
    return channels_last(to_uint8(pixels))


def to_pil(pixels: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """Convert pixels in [-1, 1] to RGB images."""
    return [Image.fromarray(array) for array in to_numpy(pixels)]


def from_pil(images: Sequence[Image.Image]) -> Float[Tensor, "b 3 H W"]:
    """Convert images of one size and any mode to RGB pixels in [-1, 1]."""
    return to_signed(channels_first(np.stack([np.asarray(image.convert("RGB")) for image in images])))


def to_image(pixels: Float[Tensor, "c H W"]) -> Image.Image:
    """Make an image people can look at: the first three channels as red, green and blue, or fewer ones as their mean.

    Args:
        pixels: One image of any number of channels in [-1, 1].
    """
    shown = pixels[:3] if len(pixels) >= 3 else pixels.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return to_pil(shown[None])[0]
