"""FlexAttention for training on GPUs: one fused kernel for all scales, which skips what no token may see."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

_compiled = torch.compile(flex_attention, dynamic=False)


class FlexBlockCausal:
    """What `nn.attention.BlockCausal` computes, by FlexAttention. Implements `nn.attention.AttentionFn`.

    On the CPU it runs without a fused kernel and without gradients: for tests.

    Args:
        offsets: index of each scale's first token, and after them the number of all tokens.
        device: where the tokens will be.
    """

    def __init__(self, offsets: Sequence[int], device: torch.device) -> None:
        lengths = torch.tensor(offsets).diff()
        scale = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)

        total = offsets[-1]
        self._mask = create_block_mask(
            lambda b, h, query, key: scale[query] >= scale[key], None, None, total, total, device=device.type
        )
        self._attend = _compiled if device.type == "cuda" else flex_attention

    def __call__(
        self, q: Float[Tensor, "b n l e"], k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"], *, scale: float
    ) -> Float[Tensor, "b n l e"]:
        attended = self._attend(q, k, v, block_mask=self._mask, scale=scale)
        assert isinstance(attended, Tensor)
        return attended
