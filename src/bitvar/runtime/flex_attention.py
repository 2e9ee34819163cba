"""FlexAttention for training on GPUs: one fused kernel for all scales, which skips masked blocks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

_compiled = torch.compile(flex_attention, dynamic=False)


class FlexBlockCausal:
    """The attention of `nn.attention.BlockCausal`, computed by FlexAttention. Implements `nn.attention.AttentionFn`.

    On the CPU it runs without a fused kernel and without gradients, which suffices for tests.

    Args:
        offsets: Index of each scale's first token, followed by the total number of tokens.
        device: Device of the tokens.
    """

    def __init__(self, offsets: Sequence[int], device: torch.device) -> None:
        num_tokens = torch.tensor(offsets).diff()
        scale = torch.repeat_interleave(torch.arange(len(num_tokens)), num_tokens).to(device)

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
