"""Bits and codes: the binary spherical quantiser (Zhao et al., arXiv 2406.07548), and 2x2 patches of bits.

A cell of a scale is a vector of `d` bits. Its codes are those bits as numbers: +-1/sqrt(d), a point on the unit sphere,
times the code norm of the scale. This module knows nothing about scales: `pyramid` iterates over them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


def bits_to_codes(bits: Bool[Tensor, "b d h w"], norm: float = 1.0) -> Float[Tensor, "b d h w"]:
    """Map True to +norm/sqrt(d) and False to -norm/sqrt(d), in fp32."""
    return (bits.float() * 2 - 1) * (norm * bits.shape[1] ** -0.5)


def quantize(residual: Float[Tensor, "b d h w"]) -> Bool[Tensor, "b d h w"]:
    """Quantise each cell to the nearest code: `residual > 0`. Normalising a cell changes no sign."""
    return residual > 0


def straight_through(
    codes: Float[Tensor, "b d h w"], residual: Float[Tensor, "b d h w"], norm: float = 1.0
) -> Float[Tensor, "b d h w"]:
    """Return the value of `codes` with the gradient of the residual, scaled to the norm of the codes."""
    on_sphere = norm * F.normalize(residual, dim=1)
    return on_sphere + (codes - on_sphere).detach()


def to_tokens(cells: Tensor, patch_size: int) -> Tensor:
    """Turn `(b, d, h p, w p)` cells into `(b, h w, d p p)` tokens, row by row; channels as in `pixel_unshuffle`."""
    return rearrange(F.pixel_unshuffle(cells, patch_size) if patch_size > 1 else cells, "b d h w -> b (h w) d")


def to_cells(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Invert `to_tokens` for a token grid `(h, w)`."""
    cells = rearrange(tokens, "b (h w) d -> b d h w", h=grid[0], w=grid[1])
    return F.pixel_shuffle(cells, patch_size) if patch_size > 1 else cells


def packed_length(bits: int, grid: tuple[int, int]) -> int:
    """Number of bytes that `pack` returns for a grid with `bits` bits per cell."""
    return -(-bits * grid[0] * grid[1] // 8)


def pack(bits: Bool[Tensor, "d h w"]) -> bytes:
    """Pack bits into bytes, most significant bit first: row by row, `d` bits per cell, padded with zeros."""
    return np.packbits(rearrange(bits, "d h w -> (h w d)").cpu().numpy()).tobytes()


def unpack(data: bytes, bits: int, grid: tuple[int, int]) -> Bool[Tensor, "d h w"]:
    """Invert `pack`, for data of `packed_length(bits, grid)` bytes."""
    assert len(data) == packed_length(bits, grid)
    count = bits * grid[0] * grid[1]
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool)
    return rearrange(torch.from_numpy(flat), "(h w d) -> d h w", h=grid[0], w=grid[1])
