"""The prefix of an instruction editor: the source image as tokens before those of the edited one.

The features of the source image, before any quantization, go through the transformer's input projection at the last
scale, and once through all blocks with the instruction (Mao et al., arXiv 2508.15772). Every scale attends to them, and
they attend to themselves alone. In the first block, a scale sees the prefix's keys and values averaged down to its own
grid; in the others it sees them all.

This module knows no caches and no training.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.nn.attention import attend
from bitvar.nn.rope import rope_table
from bitvar.scales import Grid, ScaleSchedule
from bitvar.transformer import InfinityTransformer
from bitvar.weights.instruction import SourcePositions


def embed_source(
    model: InfinityTransformer,
    features: Float[Tensor, "b _ h w"],
    schedule: ScaleSchedule,
    *,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "b s c"]:
    """Embed the source image as the `s` tokens of the last scale.

    Args:
        model: Transformer.
        features: Features of the tokenizer's encoder on the schedule's last grid.
        schedule: Schedule of the edited image.
        dtype: Data type of the activations; None for the parameters'.

    Raises:
        UsageError: If the features lie on another grid.
    """
    expected = schedule.latent_grids(model.config.patch_size)[-1]
    found = (features.shape[-2], features.shape[-1])
    if found != expected:
        why = f"its features have {found[0]} x {found[1]} cells, the schedule {expected[0]} x {expected[1]}"
        raise UsageError("The source image has another size than the edited one.", why, "resize it")
    return model.embed(features, len(schedule) - 1, dtype)


def prefixed_positions(schedule: ScaleSchedule, positions: SourcePositions) -> Int[Tensor, "m 2"]:
    """Compute row and column of every token: the prefix's, then the schedule's.

    "aligned" gives the prefix the positions of the last scale. "official" is what VAREdit's released code computes:
    the prefix lies below and to the right of the image, at the rows and columns of the reference grid plus its sides.
    Its table covers the reference grid and is read in order, so that a schedule that ends at a smaller grid finds the
    positions of its own tokens shifted too.

    Args:
        schedule: Schedule of the edited image.
        positions: Kind of positions.
    """
    own, length = schedule.positions(), schedule.lengths[-1]
    if positions == "aligned":
        return torch.cat([own[schedule.tokens(len(schedule) - 1)], own])
    rows, columns = schedule.reference
    beyond = torch.cartesian_prod(torch.arange(rows, 2 * rows), torch.arange(columns, 2 * columns)).reshape(-1, 2)
    return torch.cat([beyond, own])[: length + schedule.num_tokens]


def prefixed_rope(
    model: InfinityTransformer, schedule: ScaleSchedule, positions: SourcePositions
) -> Float[Tensor, "m pairs 2"]:
    """Compute the rotary positions of the prefix and of every token of the schedule."""
    return rope_table(prefixed_positions(schedule, positions).to(model.device), model.config.head_dim)


def resize_tokens(x: Float[Tensor, "b n s e"], source: Grid, grid: Grid) -> Float[Tensor, "b n l e"]:
    """Average the keys or values of a grid of tokens down to another grid.

    Args:
        x: Keys or values, row by row.
        source: Rows and columns of `x`.
        grid: Rows and columns wanted.
    """
    if source == grid:
        return x
    cells = rearrange(x, "b n (h w) e -> b (n e) h w", h=source[0])
    resized = F.interpolate(cells, size=grid, mode="area")
    return rearrange(resized, "b (n e) h w -> b n (h w) e", n=x.shape[1])


class FirstBlockAttention:
    """Attention of the first block over the prefix and all scales, for training.

    Each scale attends to the prefix resized to its grid, to the coarser scales and to itself.

    Args:
        schedule: Schedule of the edited image.
    """

    def __init__(self, schedule: ScaleSchedule) -> None:
        self.schedule = schedule

    def __call__(
        self, q: Float[Tensor, "b n m e"], k: Float[Tensor, "b n m e"], v: Float[Tensor, "b n m e"], *, scale: float
    ) -> Float[Tensor, "b n m e"]:
        schedule, length = self.schedule, self.schedule.lengths[-1]
        prefix_k, prefix_v = k[:, :, :length], v[:, :, :length]
        outputs = [attend(q[:, :, :length], prefix_k, prefix_v, scale=scale)]
        for index, grid in enumerate(schedule):
            where = schedule.tokens(index)
            own, seen = slice(length + where.start, length + where.stop), slice(length, length + where.stop)
            attention = PrefixedAttention(*(resize_tokens(x, schedule[-1], grid) for x in (prefix_k, prefix_v)))
            outputs.append(attention(q[:, :, own], k[:, :, seen], v[:, :, seen], scale=scale))
        return torch.cat(outputs, dim=2)


class PrefixedAttention:
    """Attention to further keys and values beside those given.

    Args:
        keys, values: The further keys and values, of shape `(b, n, s, e)`.
    """

    def __init__(self, keys: Float[Tensor, "b n s e"], values: Float[Tensor, "b n s e"]) -> None:
        self.keys, self.values = keys, values

    def __call__(
        self, q: Float[Tensor, "b n l e"], k: Float[Tensor, "b n m e"], v: Float[Tensor, "b n m e"], *, scale: float
    ) -> Float[Tensor, "b n l e"]:
        return attend(q, torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2), scale=scale)
