"""Conversion between arrays, tensors and PIL images. Only this file moves the channel axis.

Arrays have their channels last and tensors first, as NumPy with PIL and PyTorch have them. `pixels` maps bytes to
[-1, 1] and back. Pixels of four channels are an image on white and its opacity (`alpha`); as arrays and PIL images for
people they have straight alpha.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from bitvar.imaging.alpha import flatten, lay_on_white, take_off_white
from bitvar.imaging.pixels import to_signed, to_uint8

RGBA_CHANNELS: Final = 4
"""Number of channels of pixels whose last channel is opacity."""


def channels_first(images: Shaped[np.ndarray, "*b H W c"]) -> Shaped[Tensor, "*b c H W"]:
    """Make a tensor of an array, values unchanged. They share memory where the array is contiguous and writable."""
    array = np.ascontiguousarray(images)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).movedim(-1, -3)


def channels_last(images: Shaped[Tensor, "*b c H W"]) -> Shaped[np.ndarray, "*b H W c"]:
    """Make an array of a tensor, values unchanged."""
    return images.movedim(-3, -1).cpu().numpy()


def to_numpy(pixels: Float[Tensor, "b c H W"]) -> UInt8[np.ndarray, "b H W c"]:
    """Convert pixels in [-1, 1] to bytes; four channels become RGBA with straight alpha."""
    array = channels_last(to_uint8(pixels))
    return take_off_white(array) if array.shape[-1] == RGBA_CHANNELS else array


def to_pil(pixels: Float[Tensor, "b c H W"]) -> list[Image.Image]:
    """Convert pixels of three or four channels in [-1, 1] to RGB or RGBA images."""
    return [Image.fromarray(array) for array in to_numpy(pixels)]


def image_bytes(image: Image.Image, channels: int) -> UInt8[np.ndarray, "H W c"]:
    """Return the bytes of an image of any mode as models see them.

    Args:
        image: The image.
        channels: 3 for RGB, on white where the image is RGBA; 4 for the image on white and its opacity.
    """
    if channels == RGBA_CHANNELS:
        return lay_on_white(np.asarray(image.convert("RGBA")))
    assert channels == 3, "models see RGB or RGBA images"
    return np.asarray(flatten(image).convert("RGB"))


def from_pil(images: Sequence[Image.Image], *, channels: int = 3) -> Float[Tensor, "b c H W"]:
    """Convert images of one size and any mode to pixels in [-1, 1].

    Args:
        images: The images.
        channels: Number of channels, 3 or 4, as for `image_bytes`.
    """
    return to_signed(channels_first(np.stack([image_bytes(image, channels) for image in images])))


def to_image(pixels: Float[Tensor, "c H W"]) -> Image.Image:
    """Make an image people can look at: the first three channels as red, green and blue, or fewer ones as their mean.

    Args:
        pixels: One image of any number of channels in [-1, 1].
    """
    shown = pixels[:3] if len(pixels) >= 3 else pixels.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return to_pil(shown[None])[0]
