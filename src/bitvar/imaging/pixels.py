"""The map between bytes and the numbers in [-1, 1] that models see. Only this file computes it."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.finite import require_finite


def to_signed(images: UInt8[Tensor, "n c H W"] | Float[Tensor, "n c H W"]) -> Float[Tensor, "n c H W"]:
    """Map 0..255 to [-1, 1]. Floats slightly outside of 0..255 are mapped alike."""
    return images.float() / 127.5 - 1


def to_uint8(pixels: Float[Tensor, "b c H W"]) -> UInt8[Tensor, "b c H W"]:
    """Map [-1, 1] to 0..255, rounded and clamped.

    Raises:
        ComputationError: If a value is NaN or infinite, which would silently become some byte.
    """
    require_finite(pixels, "the pixels to write")
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
