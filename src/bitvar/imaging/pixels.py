"""Bytes to the numbers that models see, and back: the only place that does either."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.finite import require_finite


def to_signed(images: UInt8[Tensor, "n c H W"] | Float[Tensor, "n c H W"]) -> Float[Tensor, "n c H W"]:
    """0..255, or somewhat more, to [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(pixels: Float[Tensor, "b c H W"]) -> UInt8[Tensor, "b c H W"]:
    """[-1, 1] to 0..255, rounded.

    Raises:
        ComputationError: for NaN or infinity, which would be some byte like any other.
    """
    require_finite(pixels, "the pixels to write")
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
