"""One transformer block: modulated self-attention, cross-attention to the text, modulated feed-forward."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bitvar.nn.attention import AttentionFn, attend
from bitvar.nn.kv_cache import ScaleCache
from bitvar.nn.linear import Linear, linear_gelu
from bitvar.nn.norms import LayerNorm, modulated_norm
from bitvar.nn.rope import apply_rope
from bitvar.transformer.config import TransformerConfig

MAX_LOGIT_SCALE = math.log(100)


class TextKV(NamedTuple):
    """One block's keys and values of the text, projected once per prompt. Sampling passes these.

    Attributes:
        k, v: Tensors of shape `(b, n, t, e)`.
        mask: Tensor of shape `(b, t)`, True for real tokens and False for padding.
    """

    k: Tensor
    v: Tensor
    mask: Tensor

    def project(self, attention: "CrossAttention") -> "TextKV":
        """Return this object, which is projected already."""
        return self

    def first_rows(self, rows: int) -> "TextKV":
        return TextKV(self.k[:rows], self.v[:rows], self.mask[:rows])


class TextMemory(NamedTuple):
    """Text features before a block's projection. Training passes these, since sharded weights are gathered per block.

    Attributes:
        features: Tensor of shape `(b, t, c)`.
        mask: Tensor of shape `(b, t)`, True for real tokens and False for padding.
    """

    features: Tensor
    mask: Tensor

    def project(self, attention: "CrossAttention") -> TextKV:
        """Compute a block's keys and values."""
        return attention.keys_values(self.features, self.mask)


class SelfAttention(nn.Module):
    """Cosine attention: q and k are unit vectors, scaled by a learned factor per head, then rotated by RoPE."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.logit_scale = nn.Parameter(torch.full((config.num_heads,), math.log(4)))
        self.proj = Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b l c"],
        rope: Float[Tensor, "l pairs 2"],
        attention: AttentionFn | None,
        cache: ScaleCache | None,
    ) -> Float[Tensor, "b l c"]:
        """Attend within `x` by `attention`; with a cache, attend from one scale to itself and the cached scales."""
        q, k, v = rearrange(self.qkv(x), "b l (s n e) -> s b n l e", s=3, n=self.num_heads)
        q_bias, v_bias = (
            rearrange(b.to(x.dtype), "(n e) -> n 1 e", n=self.num_heads) for b in (self.q_bias, self.v_bias)
        )
        logit_scale = self.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()
        q = F.normalize((q + q_bias).float(), dim=-1) * logit_scale[:, None, None]
        k = F.normalize(k.float(), dim=-1)
        q, k, v = apply_rope(q, rope).to(x.dtype), apply_rope(k, rope).to(x.dtype), v + v_bias
        if cache is not None:
            k, v = cache.extend(k, v)
        attended = (attention or attend)(q, k, v, scale=1.0)
        return self.proj(rearrange(attended, "b n l e -> b l (n e)"))


class CrossAttention(nn.Module):
    """Attention from image tokens to the text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = Linear(config.width, config.width)
        self.kv = Linear(config.width, 2 * config.width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = Linear(config.width, config.width)

    def keys_values(self, memory: Float[Tensor, "b t c"], mask: Bool[Tensor, "b t"]) -> TextKV:
        """Project the text to the keys and values that `forward` reads at every scale."""
        k, v = self.kv(memory).chunk(2, dim=-1)
        v = v + self.v_bias.to(v.dtype)
        k, v = (rearrange(part, "b t (n e) -> b n t e", n=self.num_heads) for part in (k, v))
        return TextKV(k, v, mask)

    def forward(self, x: Float[Tensor, "b l c"], text: TextKV) -> Float[Tensor, "b l c"]:
        q = rearrange(self.q(x), "b l (n e) -> b n l e", n=self.num_heads)
        attended = attend(q, text.k, text.v, scale=q.shape[-1] ** -0.5, mask=text.mask[:, None, None])
        return self.proj(rearrange(attended, "b n l e -> b l (n e)"))


class Block(nn.Module):
    """A transformer block: `x += gamma1 SA(mod(x)); x += CA(LN(x), text); x += gamma2 FFN(mod(x))`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.self_attention = SelfAttention(config)
        self.cross_norm = LayerNorm(width)
        self.cross_attention = CrossAttention(config)
        self.fc1 = Linear(width, config.ffn_width)
        self.fc2 = Linear(config.ffn_width, width)

    def forward(
        self,
        x: Float[Tensor, "b l c"],
        shared_modulation: Float[Tensor, "b 6 c"],
        text: TextKV | TextMemory,
        rope: Float[Tensor, "l pairs 2"],
        *,
        attention: AttentionFn | None = None,
        cache: ScaleCache | None = None,
    ) -> Float[Tensor, "b l c"]:
        """Run on all scales with `attention`, or on one scale with the earlier ones in `cache`."""
        modulation = (shared_modulation + self.modulation.to(x.dtype))[:, :, None]
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation.unbind(1)
        x = x + gamma1 * self.self_attention(modulated_norm(x, scale1, shift1), rope, attention, cache)
        x = x + self.cross_attention(self.cross_norm(x), text.project(self.cross_attention))
        hidden = linear_gelu(self.fc1, modulated_norm(x, scale2, shift2))
        return x + gamma2 * self.fc2(hidden)
