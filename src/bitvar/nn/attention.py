"""The one place where attention is computed: `attend`, in plain PyTorch."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_MIN_QUERIES = 64


@runtime_checkable
class AttentionFn(Protocol):
    """Attention of every token of an image to those it may see: its own scale and the coarser ones."""

    def __call__(
        self, q: Float[Tensor, "b n l e"], k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"], *, scale: float
    ) -> Float[Tensor, "b n l e"]: ...


Mask: TypeAlias = Bool[Tensor, "#b #n #q k"]


def attend(
    q: Float[Tensor, "b n q e"],
    k: Float[Tensor, "b n k e"],
    v: Float[Tensor, "b n k e"],
    *,
    scale: float,
    mask: Mask | None = None,
) -> Float[Tensor, "b n q e"]:
    """Compute softmax attention. `mask` is True where a query may attend; None lets each attend to all."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class BlockCausal:
    """Attention in which each token sees its own scale and the coarser ones, in plain PyTorch.

    A fine scale's queries attend to a prefix of the keys without a mask, so that fast kernels apply and no masked
    product is computed. The few tokens of the coarse scales go together, under a small mask.

    Args:
        offsets: Index of each scale's first token, followed by the number of all tokens.

    Attributes:
        pieces: First query and end of each piece, whose keys are all tokens before the end; and the offsets inside it.
    """

    def __init__(self, offsets: Sequence[int]) -> None:
        self.pieces: list[tuple[int, int, tuple[int, ...]]] = []
        first = 0
        for index in range(1, len(offsets)):
            start, end = offsets[first], offsets[index]
            if end - start < _MIN_QUERIES and index + 1 < len(offsets):
                continue
            self.pieces.append((start, end, tuple(offsets[first : index + 1])))
            first = index

    def __call__(
        self, q: Float[Tensor, "b n l e"], k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"], *, scale: float
    ) -> Float[Tensor, "b n l e"]:
        outputs = []
        for start, end, inside in self.pieces:
            mask = _staircase(inside, q.device)[None, None] if len(inside) > 2 else None
            outputs.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], scale=scale, mask=mask))
        return torch.cat(outputs, dim=2)


@lru_cache(maxsize=256)
def _staircase(offsets: tuple[int, ...], device: torch.device) -> Bool[Tensor, "q k"]:
    """The mask of the queries of consecutive scales over all keys before their end."""
    lengths = [end - start for start, end in pairwise(offsets)]
    with torch.inference_mode(False):  # cached, and perhaps used in training next
        last_seen = torch.repeat_interleave(torch.tensor(offsets[1:]), torch.tensor(lengths))
        return (torch.arange(offsets[-1]) < last_seen[:, None]).to(device)
