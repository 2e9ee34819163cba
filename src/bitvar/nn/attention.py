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
class Pattern(Protocol):
    """Attention of all tokens of an image to those that each may see, computed in whatever way."""

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
    mask: Mask | Pattern | None = None,
) -> Float[Tensor, "b n q e"]:
    """Softmax attention; `mask` is true where a query may look, or a pattern that knows."""
    if mask is not None and not isinstance(mask, Tensor):
        return mask(q, k, v, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class BlockCausal:
    """Each token sees its own scale and the coarser ones.

    A fine scale's queries attend to a prefix of the keys, with no mask: fast kernels apply, and nothing is computed in
    vain. The few tokens of the coarse scales go together, under a small mask.

    Args:
        offsets: index of each scale's first token, and after them the number of all tokens.

    Attributes:
        parts: first query and end of each piece, whose keys are all up to the end; the offsets inside it.
    """

    def __init__(self, offsets: Sequence[int]) -> None:
        self.parts: list[tuple[int, int, tuple[int, ...]]] = []
        first = 0
        for index in range(1, len(offsets)):
            start, end = offsets[first], offsets[index]
            if end - start < _MIN_QUERIES and index + 1 < len(offsets):
                continue
            self.parts.append((start, end, tuple(offsets[first : index + 1])))
            first = index

    def __call__(
        self, q: Float[Tensor, "b n l e"], k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"], *, scale: float
    ) -> Float[Tensor, "b n l e"]:
        parts = []
        for start, end, inside in self.parts:
            mask = _staircase(inside, q.device)[None, None] if len(inside) > 2 else None
            parts.append(attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], scale=scale, mask=mask))
        return torch.cat(parts, dim=2)


@lru_cache(maxsize=256)
def _staircase(offsets: tuple[int, ...], device: torch.device) -> Bool[Tensor, "q k"]:
    """The mask of consecutive scales' queries over all keys up to their end."""
    lengths = [end - start for start, end in pairwise(offsets)]
    with torch.inference_mode(False):  # it is kept, and may be used in training next
        last_seen = torch.repeat_interleave(torch.tensor(offsets[1:]), torch.tensor(lengths))
        return (torch.arange(offsets[-1]) < last_seen[:, None]).to(device)
