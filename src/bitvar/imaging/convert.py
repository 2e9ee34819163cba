"""Conversion between pixels in [-1, 1], uint8 arrays and PIL images. Only this file moves the channel axis."""

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.imaging.pixels import to_uint8


def to_numpy(pixels: Float[Tensor, "b 3 H W"]) -> np.ndarray:
    """Convert pixels in [-1, 1] to a uint8 array of shape `(b, H, W, 3)`."""
    return to_uint8(pixels).permute(0, 2, 3, 1).cpu().numpy()


def to_pil(pixels: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """Convert pixels in [-1, 1] to RGB images."""
    return [Image.fromarray(array) for array in to_numpy(pixels)]
