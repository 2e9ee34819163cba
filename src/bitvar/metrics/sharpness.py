"""How sharp images are, and how well a shape's outline is kept."""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LUMINANCE: Final = (0.299, 0.587, 0.114)
_STEP: Final = 1 / 16
"""Least change of opacity between neighbours that makes an outline."""


def high_frequency_energy(images: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Compute the mean square of what a slight blur takes from each image.

    The blur is the 3 x 3 binomial filter, on the luminance, with edges repeated. Zero for a constant image; a blurred
    copy has less than its original, and noise has more.

    Args:
        images: RGB images in [-1, 1]; further channels are left out.
    """
    weights = torch.tensor(_LUMINANCE, device=images.device).view(1, 3, 1, 1)
    grey = (images[:, :3].float() * weights).sum(dim=1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    blurred = F.avg_pool2d(F.avg_pool2d(padded, 2, 1), 2, 1)  # a convolution might round to TF32
    return (grey - blurred).square().mean(dim=(1, 2, 3))


def outline_error(
    opacity: Float[Tensor, "b 1 H W"], reference: Float[Tensor, "b 1 H W"], *, reach: int = 2
) -> Float[Tensor, " b"]:
    """Compute the mean absolute error of the opacity around the reference's outlines, for each image.

    Args:
        opacity: Opacity in [0, 1] to judge.
        reference: Opacity in [0, 1] that is right.
        reach: Pixels around an outline that count.

    Returns:
        Errors in [0, 1]; NaN for a reference without outlines.
    """
    near = F.max_pool2d(reference, 3, 1, 1) + F.max_pool2d(-reference, 3, 1, 1) > _STEP
    band = F.max_pool2d(near.float(), 2 * reach + 1, 1, reach)
    return ((opacity - reference).abs() * band).sum(dim=(1, 2, 3)) / band.sum(dim=(1, 2, 3))
