"""A slow, obvious second implementation of the mathematics of docs/model.md: loops over fp64 numbers.

It imports nothing of the package, so that the two can only agree by both being right.
"""

import cmath
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Grid = tuple[int, int]
Array = np.ndarray


class Scale(NamedTuple):
    """One scale of one image: `(d, h_k, w_k)` residual and true bits, and the `(d, h, w)` latent after it."""

    residual: Array
    bits: Array
    latent: Array


def area_resize(cells: Array, grid: Grid) -> Array:
    """Every output cell is the mean of the input cells that it touches."""
    d, height, width = cells.shape
    out = np.zeros((d, *grid))
    for i in range(grid[0]):
        rows = range(i * height // grid[0], -((i + 1) * height // -grid[0]))
        for j in range(grid[1]):
            columns = range(j * width // grid[1], -((j + 1) * width // -grid[1]))
            touched = [cells[:, r, c] for r in rows for c in columns]
            out[:, i, j] = sum(touched) / len(touched)
    return out


def bilinear_resize(cells: Array, grid: Grid) -> Array:
    """Bilinear between cell centres (align_corners=False), borders repeated, no antialiasing."""
    d, height, width = cells.shape
    out = np.zeros((d, *grid))
    for i in range(grid[0]):
        for j in range(grid[1]):
            y = max(0.0, (i + 0.5) * height / grid[0] - 0.5)
            x = max(0.0, (j + 0.5) * width / grid[1] - 0.5)
            top, left = math.floor(y), math.floor(x)
            for r, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
                for c, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
                    out[:, i, j] += row_weight * column_weight * cells[:, min(r, height - 1), min(c, width - 1)]
    return out


def pyramid(
    features: Array,
    grids: Sequence[Grid],
    flip: Callable[[int, Array], Array] | None = None,
    code_norms: Sequence[float] | None = None,
) -> list[Scale]:
    """The residual pyramid of one image, `(d, h, w)`; `flip` is self-correction's, `code_norms` are each scale's."""
    features = features.astype(np.float64)
    d = features.shape[0]
    latent = np.zeros_like(features)
    scales = []
    for k, grid in enumerate(grids):
        residual = area_resize(features - latent, grid) if grid != features.shape[1:] else features - latent
        bits = residual > 0
        spoken = bits if flip is None else flip(k, bits)
        codes = np.where(spoken, 1.0, -1.0) / math.sqrt(d) * (1.0 if code_norms is None else code_norms[k])
        latent = latent + bilinear_resize(codes, features.shape[1:])
        scales.append(Scale(residual, bits, latent))
    return scales


def transformer_inputs(scales: Sequence[Scale], grids: Sequence[Grid]) -> list[Array]:
    """What scales 1 and up are fed: the latent after the scale before, resized bilinearly."""
    return [bilinear_resize(scale.latent, grid) for scale, grid in zip(scales[:-1], grids[1:], strict=True)]


def unshuffle(cells: Array, patch: int) -> Array:
    """`(d, h p, w p)` cells to `(h w, d p p)` tokens, row by row; in a token channel first, then row, then column."""
    d, height, width = cells.shape
    tokens = []
    for i in range(height // patch):
        for j in range(width // patch):
            tokens.append(
                [
                    cells[channel, i * patch + r, j * patch + c]
                    for channel in range(d)
                    for r in range(patch)
                    for c in range(patch)
                ]
            )
    return np.array(tokens)


def positions(grids: Sequence[Grid], reference: Grid) -> list[tuple[int, int]]:
    """Row and column of every token; Python's `round` goes half to even."""
    return [
        (round(i * reference[0] / rows), round(j * reference[1] / columns))
        for rows, columns in grids
        for i in range(rows)
        for j in range(columns)
    ]


def rotate(vector: Array, position: tuple[int, int], base: float = 10000.0) -> Array:
    """2-D RoPE of one head: pair p of the first half turns with the row, of the second half with the column."""
    pairs = len(vector) // 2
    out = np.zeros(len(vector))
    for p in range(pairs):
        axis, index = divmod(p, pairs // 2)
        angle = position[axis] * base ** (-index / (pairs // 2))
        turned = complex(vector[2 * p], vector[2 * p + 1]) * cmath.exp(1j * angle)
        out[2 * p], out[2 * p + 1] = turned.real, turned.imag
    return out


class AttentionWeights(NamedTuple):
    """One self-attention: `qkv (3c, c)`, `q_bias (c,)`, `v_bias (c,)`, `logit_scale (n,)`, `proj (c, c)` and bias."""

    qkv: Array
    q_bias: Array
    v_bias: Array
    logit_scale: Array
    proj: Array
    proj_bias: Array


def self_attention(
    x: Array, weights: AttentionWeights, places: Sequence[tuple[int, int]], scale_of: Sequence[int]
) -> Array:
    """Block-causal cosine attention over the tokens `(l, c)` of one image, a query at a time."""
    length, width = x.shape
    heads = len(weights.logit_scale)
    size = width // heads
    q, k, v = np.split(x @ weights.qkv.T, 3, axis=1)
    q, v = q + weights.q_bias, v + weights.v_bias
    out = np.zeros((length, width))
    for n in range(heads):
        part = slice(n * size, (n + 1) * size)
        logit_scale = math.exp(min(weights.logit_scale[n], math.log(100)))
        queries = [
            rotate(row / np.linalg.norm(row) * logit_scale, p) for row, p in zip(q[:, part], places, strict=True)
        ]
        keys = [rotate(row / np.linalg.norm(row), p) for row, p in zip(k[:, part], places, strict=True)]
        for i in range(length):
            seen = [j for j in range(length) if scale_of[j] <= scale_of[i]]
            powers = np.exp(np.array([queries[i] @ keys[j] for j in seen]))
            out[i, part] = sum(power * v[j, part] for power, j in zip(powers / powers.sum(), seen, strict=True))
    return out @ weights.proj.T + weights.proj_bias
