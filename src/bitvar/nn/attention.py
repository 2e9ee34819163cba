"""The one place where attention is computed: `attend`, in plain PyTorch."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    q: Float[Tensor, "b n q e"],
    k: Float[Tensor, "b n k e"],
    v: Float[Tensor, "b n k e"],
    *,
    scale: float,
    mask: Bool[Tensor, "#b #n #q k"] | None = None,
) -> Float[Tensor, "b n q e"]:
    """Softmax attention; `mask` is true where a query may look."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
