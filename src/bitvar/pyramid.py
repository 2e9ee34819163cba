"""The residual pyramid: the only code that iterates over scales. Everything here is fp32.

`latent_0 = 0`. At each scale, the residual `features - latent` is averaged down to the scale's grid. Its signs are the
scale's bits, and their codes, resized up, are added to the latent (Han et al., arXiv 2412.04431, section 3.2).

In the paper, the codes of every scale have norm 1. In a flat area, where all cells of a scale have equal bits, the
error after the last scale is therefore as large as after the first: a constant colour offset. A tokenizer may have
shorter codes at finer scales (`TokenizerConfig.code_norms`), which shrink the error from scale to scale.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.bits import bits_to_codes, quantize, straight_through
from bitvar.scales import Grid

Flip = Callable[[int, Bool[Tensor, "b d h w"]], Bool[Tensor, "b d h w"]]
"""Map (scale, true bits) to the bits that enter the latent: bitwise self-correction."""


class ScaleStep(NamedTuple):
    """One scale of an encoding.

    Attributes:
        residual: Residual of shape `(b, d, h_k, w_k)` that this scale quantises.
        bits: Signs of the residual, of shape `(b, d, h_k, w_k)`: the true bits, before any flip.
        latent: Sum of shape `(b, d, h, w)` up to and including this scale, flips included.
    """

    residual: Tensor
    bits: Tensor
    latent: Tensor


def empty_latent(batch: int, bits: int, grid: Grid, device: torch.device) -> Float[Tensor, "b d h w"]:
    """Return `latent_0`, all zeros. `grid` is the last scale's, in tokenizer cells."""
    return torch.zeros(batch, bits, *grid, device=device)


def residual_at(
    features: Float[Tensor, "b d h w"], latent: Float[Tensor, "b d h w"], grid: Grid
) -> Float[Tensor, "b d hk wk"]:
    """Compute the residual that the latent leaves, averaged by area to `grid`."""
    residual = features - latent
    return residual if residual.shape[-2:] == grid else F.interpolate(residual, size=grid, mode="area")


def add_scale(latent: Float[Tensor, "b d h w"], codes: Float[Tensor, "b d hk wk"]) -> Float[Tensor, "b d h w"]:
    """Add one scale's codes, resized bilinearly to the latent's grid, and return a new tensor."""
    return latent + enlarge(codes, (latent.shape[-2], latent.shape[-1]))


def enlarge(codes: Float[Tensor, "b d hk wk"], grid: Grid) -> Float[Tensor, "b d h w"]:
    """Resize one scale's codes bilinearly to the last scale's grid: what the scale adds to the latent."""
    return _resize(codes, grid)


def decode_latent(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grid: Grid, code_norms: Sequence[float] | None = None
) -> Float[Tensor, "b d h w"]:
    """Sum the codes of all scales, or of the first ones only, into a latent. `grid` is the last scale's."""
    *_, latent = cumulative_latents(bits, grid, code_norms)
    return latent


def cumulative_latents(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grid: Grid, code_norms: Sequence[float] | None = None
) -> Iterator[Float[Tensor, "b d h w"]]:
    """Yield the latent after each scale, coarse to fine.

    Args:
        bits: Bits of every scale, or of the first ones only.
        grid: Grid of the last of all scales, in tokenizer cells.
        code_norms: Norm of each scale's codes, as for `encode`.
    """
    first = bits[0]
    latent = empty_latent(first.shape[0], first.shape[1], grid, first.device)
    for k, scale in enumerate(bits):
        latent = add_scale(latent, bits_to_codes(scale, 1.0 if code_norms is None else code_norms[k]))
        yield latent


def next_input(latent: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d hk wk"]:
    """Compute the transformer's input at a scale: the latent so far, resized bilinearly to `grid` (tokenizer cells).

    The official tokenizer averages its own next-scale inputs by area, but no model was trained on those.
    """
    return _resize(latent, grid)


def encode(
    features: Float[Tensor, "b d h w"],
    grids: Sequence[Grid],
    code_norms: Sequence[float] | None = None,
    *,
    flip: Flip | None = None,
) -> Iterator[ScaleStep]:
    """Encode scale by scale, coarse to fine, yielding each scale's residual, true bits and latent.

    Args:
        features: Output of the encoder, on the last of `grids`; computed with in fp32.
        grids: Grid `(h_k, w_k)` of every scale, in tokenizer cells.
        code_norms: Norm of each scale's codes (`scales.code_norms_of`), at least one per grid; None for 1, as
            published.
        flip: Function that changes bits before they enter the latent, so that finer scales see the error and can
            correct it.

    The latent carries the straight-through gradient of every scale. No gradient flows through the residual.
    """
    features = features.float()
    latent = torch.zeros_like(features)
    for k, grid in enumerate(grids):
        norm = 1.0 if code_norms is None else code_norms[k]
        residual = residual_at(features, latent.detach(), grid)
        bits = quantize(residual)
        codes = bits_to_codes(bits if flip is None else flip(k, bits), norm)
        if features.requires_grad:
            codes = straight_through(codes, residual, norm)
        latent = add_scale(latent, codes)
        yield ScaleStep(residual, bits, latent)


def _resize(cells: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d h2 w2"]:
    if (cells.shape[-2], cells.shape[-1]) == grid:
        return cells
    return F.interpolate(cells, size=grid, mode="bilinear", align_corners=False)
