"""The residual pyramid: the only code that walks scales. Everything here is fp32.

`latent_0 = 0`; at each scale the residual `features - latent` is averaged down to the scale's grid, its signs are the
scale's bits, and their codes, resized up, are added to the latent (Han et al., arXiv 2412.04431, section 3.2).

There, the codes of every scale are of length 1. So where a picture is flat, and all cells of all scales say the same,
what is left over is as large after the last scale as after the first: a tint. A tokenizer may have shorter codes at
finer scales (`TokenizerConfig.code_lengths`), which come closer step by step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.bits import bits_to_codes, quantize, straight_through
from bitvar.scales import Grid

Flip = Callable[[int, Bool[Tensor, "b d h w"]], Bool[Tensor, "b d h w"]]
"""(scale, true bits) -> the bits that enter the latent: bitwise self-correction."""


class Step(NamedTuple):
    """One scale of an encoding.

    Attributes:
        residual: `(b, d, h_k, w_k)`, what was left to say at this scale.
        bits: `(b, d, h_k, w_k)`, its signs: the truth, before any flip.
        latent: `(b, d, h, w)`, the sum up to and including this scale, flips included.
    """

    residual: Tensor
    bits: Tensor
    latent: Tensor


PUBLISHED_LENGTHS: Final = (1.0,)
"""Of the codes of the published tokenizers: all alike."""


def lengths_of(code_lengths: Sequence[float], num_scales: int) -> tuple[float, ...]:
    """Of each scale's codes: the last is the finest scale's; scales coarser than the list reaches have its first."""
    behind = len(code_lengths) - num_scales
    return tuple(code_lengths[max(0, behind + k)] for k in range(num_scales))


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


def latent_of(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grids: Sequence[Grid], code_lengths: Sequence[float] = PUBLISHED_LENGTHS
) -> Float[Tensor, "b d h w"]:
    """The latent that bits add up to: those of every scale, or of the first ones only. `grids` are all scales'."""
    *_, latent = latents_of(bits, grids, code_lengths)
    return latent


def latents_of(
    bits: Sequence[Bool[Tensor, "b d _ _"]], grids: Sequence[Grid], code_lengths: Sequence[float] = PUBLISHED_LENGTHS
) -> Iterator[Float[Tensor, "b d h w"]]:
    """The latent after each scale of bits, coarse to fine. `grids` are all scales', though bits may end sooner."""
    first = bits[0]
    latent = empty_latent(first.shape[0], first.shape[1], grids[-1], first.device)
    lengths = lengths_of(code_lengths, len(grids))
    for scale, length in zip(bits, lengths[: len(bits)], strict=True):
        latent = add_scale(latent, bits_to_codes(scale, length))
        yield latent


def next_input(latent: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d hk wk"]:
    """What the transformer is fed at a scale of `grid` (in tokenizer cells): the latent so far, resized bilinearly.

    Not by area: the official tokenizer's own next-scale inputs are averaged, but no model was trained on those.
    """
    return _resize(latent, grid)


def encode(
    features: Float[Tensor, "b d h w"],
    grids: Sequence[Grid],
    code_lengths: Sequence[float] = PUBLISHED_LENGTHS,
    *,
    flip: Flip | None = None,
) -> Iterator[Step]:
    """Walk the scales from coarse to fine, yielding each one's residual, true bits and the latent after it.

    Args:
        features: the encoder's output, whose grid is the last of `grids`; kept in fp32.
        grids: every scale's `(h_k, w_k)`, in tokenizer cells.
        code_lengths: the tokenizer's.
        flip: changes bits before they enter the latent, so that finer scales see (and must repair) the mistake.

    The latent carries the straight-through gradient of every scale; the residual's own path is cut.
    """
    features = features.float()
    latent = torch.zeros_like(features)
    for k, (grid, length) in enumerate(zip(grids, lengths_of(code_lengths, len(grids)), strict=True)):
        residual = residual_at(features, latent.detach(), grid)
        bits = quantize(residual)
        codes = bits_to_codes(bits if flip is None else flip(k, bits), length)
        if features.requires_grad:
            codes = straight_through(codes, residual, length)
        latent = add_scale(latent, codes)
        yield Step(residual, bits, latent)


def _resize(cells: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d h2 w2"]:
    if (cells.shape[-2], cells.shape[-1]) == grid:
        return cells
    return F.interpolate(cells, size=grid, mode="bilinear", align_corners=False)
