"""Encoding in passes: what came back wrong is added to what goes in, and the encoder tries again.

An encoder sees no decoder: where an image is flat it makes the same small mistake everywhere, a tint. Given the
image less that mistake, it makes other bits, whose mistakes lie on both sides. The decoder stays as it is.
"""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.pyramid import ScaleStep
from bitvar.tokenizer.losses import pooled_errors

GAIN: Final = 0.15
"""What part of a mistake is taken from a pixel, and what part of the mean mistake of the square around it."""

SQUARE: Final = 5
"""Side of that square in pixels."""

SETTLING: Final = 6
"""Passes after which the parts are half of what they were."""


def correction(missing: Float[Tensor, "b c H W"], number: int) -> Float[Tensor, "b c H W"]:
    """What to add to what goes in.

    Args:
        missing: the images, less what came back.
        number: passes made before.
    """
    around = F.avg_pool2d(missing, SQUARE, stride=1, padding=SQUARE // 2, count_include_pad=False)
    return GAIN / (1 + number / SETTLING) * (missing + around)


def seen_error(missing: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """How much of a mistake an eye sees: its mean, and that of its means over squares of 2, 4, 8 and 16 pixels."""
    return missing.abs().mean(dim=(1, 2, 3)) + pooled_errors(missing)


def choose(better: Bool[Tensor, " b"], new: ScaleStep, old: ScaleStep) -> ScaleStep:
    """A step of two encodings, image by image."""
    pick = better[:, None, None, None]
    return ScaleStep(*(torch.where(pick, one, other) for one, other in zip(new, old, strict=True)))
