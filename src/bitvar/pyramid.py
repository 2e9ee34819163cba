"""The residual pyramid: the only code that walks scales. Everything here is fp32.

`latent_0 = 0`; at each scale the residual `features - latent` is averaged down to the scale's grid, its signs are the
scale's bits, and their codes, resized up, are added to the latent (Han et al., arXiv 2412.04431, section 3.2).

There, the codes of every scale are of length 1. So where an image is flat, and all cells of all scales say the same,
what is left over is as large after the last scale as after the first: a tint. A tokenizer may have shorter codes at
finer scales (`TokenizerConfig.code_norms`), which come closer step by step.
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
"""(scale, true bits) -> the bits that enter the latent: bitwise self-correction."""


class ScaleStep(NamedTuple):
    """One scale of an encoding.

    Attributes:
        residual: `(b, d, h_k, w_k)`, what was left to say at this scale.
        bits: `(b, d, h_k, w_k)`, its signs: the truth, before any flip.
        latent: `(b, d, h, w)`, the sum up to and including this scale, flips included.
    """

    residual: Tensor
    bits: Tensor
    latent: Tensor


def empty_latent(batch: int, bits: int, grid: Grid, device: torch.device) -> Float[Tensor, "b d h w"]:
    """`latent_0`: nothing said yet. `grid` is the last scale's, in tokenizer cells."""
    return torch.zeros(batch, bits, *grid, device=device)


def residual_at(
    features: Float[Tensor, "b d h w"], latent: Float[Tensor, "b d h w"], grid: Grid
) -> Float[Tensor, "b d hk wk"]:
    """What the latent still lacks, averaged by area to `grid`."""
    residual = features - latent
    return residual if residual.shape[-2:] == grid else F.interpolate(residual, size=grid, mode="area")


def add_scale(latent: Float[Tensor, "b d h w"], codes: Float[Tensor, "b d hk wk"]) -> Float[Tensor, "b d h w"]:
    """Add one scale's codes, resized bilinearly to the latent's grid. Returns a new tensor."""
    return latent + _resize(codes, (latent.shape[-2], latent.shape[-1]))


def decode_latent(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grid: Grid, code_norms: Sequence[float] | None = None
) -> Float[Tensor, "b d h w"]:
    """The latent that bits add up to: those of every scale, or of the first ones only. `grid` is the last scale's."""
    *_, latent = cumulative_latents(bits, grid, code_norms)
    return latent


def cumulative_latents(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grid: Grid, code_norms: Sequence[float] | None = None
) -> Iterator[Float[Tensor, "b d h w"]]:
    """The latent after each scale of bits, coarse to fine.

    Args:
        bits: of every scale, or of the first ones only.
        grid: of the last of all scales.
        code_norms: Norm of each scale's codes, as for `encode`.
    """
    first = bits[0]
    latent = empty_latent(first.shape[0], first.shape[1], grid, first.device)
    for k, scale in enumerate(bits):
        latent = add_scale(latent, bits_to_codes(scale, 1.0 if code_norms is None else code_norms[k]))
        yield latent


def next_input(latent: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d hk wk"]:
    """What the transformer is fed at a scale of `grid` (in tokenizer cells): the latent so far, resized bilinearly.

    Not by area: the official tokenizer's own next-scale inputs are averaged, but no model was trained on those.
    """
    return _resize(latent, grid)


def encode(
    features: Float[Tensor, "b d h w"],
    grids: Sequence[Grid],
    code_norms: Sequence[float] | None = None,
    *,
    flip: Flip | None = None,
) -> Iterator[ScaleStep]:
    """Walk the scales from coarse to fine, yielding each one's residual, true bits and the latent after it.

    Args:
        features: the encoder's output, whose grid is the last of `grids`; kept in fp32.
        grids: every scale's `(h_k, w_k)`, in tokenizer cells.
        code_norms: Norm of each scale's codes (`scales.code_norms_of`), at least one a grid; None for 1, as published.
        flip: changes bits before they enter the latent, so that finer scales see (and must repair) the mistake.

    The latent carries the straight-through gradient of every scale; the residual's own path is cut.
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
