"""Attention in plain PyTorch. Every model calls `attend`, unless it is given another `AttentionFn`."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_MIN_QUERIES = 64

_MAX_KEYS_IN_FP32 = 128
_MAX_HEAD_DIM_IN_FP32 = 64
"""Largest attention that trains faster in fp32 than in bf16 on a CPU (docs/performance.md)."""


@runtime_checkable
class AttentionFn(Protocol):
    """Attention over all tokens of an image, where each token attends to its own scale and the coarser ones."""

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
    """Compute softmax attention. `mask` is True where a query may attend; None lets every query attend to all keys.

    Small attention in bf16 is computed in fp32 where a CPU needs its gradients: PyTorch's backward pass in bf16 is slow
    there, and the output is rounded to bf16 only once.
    """
    if _trains_faster_in_fp32(q, k, v):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=scale).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _trains_faster_in_fp32(q: Tensor, k: Tensor, v: Tensor) -> bool:
    small = k.shape[-2] <= _MAX_KEYS_IN_FP32 and k.shape[-1] <= _MAX_HEAD_DIM_IN_FP32
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v))
    return small and trains and q.dtype == torch.bfloat16 and q.device.type == "cpu"


class BlockCausal:
    """Block-causal attention in plain PyTorch: each token attends to its own scale and the coarser ones.

    The queries of a fine scale attend to a prefix of the keys without a mask, so that fast kernels apply and no masked
    product is computed. The few tokens of the coarse scales are computed together, under a small mask.

    Args:
        offsets: Index of each scale's first token, followed by the total number of tokens.

    Attributes:
        pieces: First query, end, and scale offsets of each group of scales. Its keys are all tokens before the end.
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
    """Build the mask for the queries of consecutive scales over all keys before their end."""
    lengths = [end - start for start, end in pairwise(offsets)]
    with torch.inference_mode(False):  # cached, and may be used in training later
        last_seen = torch.repeat_interleave(torch.tensor(offsets[1:]), torch.tensor(lengths))
        return (torch.arange(offsets[-1]) < last_seen[:, None]).to(device)
