"""Two-dimensional rotary position embedding: half the frequencies encode the row, half the column."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 10000.0


def rope_table(positions: Int[Tensor, "l 2"], head_dim: int) -> Float[Tensor, "l pairs 2"]:
    """Compute the cosine and sine of the rotation angle of each pair of channels at each position, in fp32.

    Args:
        positions: Row and column of every token.
        head_dim: Channels of a head, a multiple of 4. The `head_dim / 2` pairs are `(x0, x1), (x2, x3), ...`.
    """
    quarter = head_dim // 4
    frequencies = BASE ** (-torch.arange(quarter, dtype=torch.float32, device=positions.device) / quarter)
    angles = (positions[:, :, None].float() * frequencies).flatten(1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def apply_rope(x: Float[Tensor, "b n l e"], table: Float[Tensor, "l pairs 2"]) -> Float[Tensor, "b n l e"]:
    """Rotate every pair of channels in every head by its token's angle, in fp32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
