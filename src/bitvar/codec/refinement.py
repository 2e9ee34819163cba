"""Iterative refinement: encode, decode, add the reconstruction error to the encoder's input, and encode again.

The encoder knows nothing of the decoder. In a flat area it makes the same small error in every cell, which shows as a
colour cast over whole blocks. Given an input corrected by that error, it chooses bits whose errors have both signs and
cancel out. The decoder stays as it is.
"""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.pyramid import ScaleStep
from bitvar.tokenizer.losses import pooled_errors

GAIN: Final = 0.15
"""Share of a pixel's error, and of the mean error of the block around it, that the first step corrects."""

BLOCK_SIDE: Final = 5
"""Side of that block in pixels."""

HALVING_STEPS: Final = 6
"""Number of steps after which the gain is half of `GAIN`."""


def correction(error: Float[Tensor, "b c H W"], step: int) -> Float[Tensor, "b c H W"]:
    """Compute the correction to add to the encoder's input.

    Args:
        error: Originals minus their reconstructions.
        step: Number of refinement steps made before this one.
    """
    block_mean = F.avg_pool2d(error, BLOCK_SIDE, stride=1, padding=BLOCK_SIDE // 2, count_include_pad=False)
    return GAIN / (1 + step / HALVING_STEPS) * (error + block_mean)


def multiscale_error(error: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Measure how visible an error is: its mean magnitude, plus those of its means over blocks of 2 to 16 pixels."""
    return error.abs().mean(dim=(1, 2, 3)) + pooled_errors(error)


def select_images(use_first: Bool[Tensor, " b"], first: ScaleStep, second: ScaleStep) -> ScaleStep:
    """Combine the same scale of two encodings, taking each image from the first where `use_first` says so."""
    mask = use_first[:, None, None, None]
    return ScaleStep(*(torch.where(mask, one, other) for one, other in zip(first, second, strict=True)))
