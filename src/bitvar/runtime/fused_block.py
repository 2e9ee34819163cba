"""A transformer block in which everything between matrix products and attention is a few functions of tensors.

They compute what `transformer.block.Block` computes, in the same order. Compiled, each becomes one or two kernels that
read and write every activation once: norm with modulation, the norm of q and k with RoPE, a gated residual with the
norm after it. Products, attention and the cache stay outside, so that sizes vary freely and adapters apply.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from bitvar.nn.attention import AttentionFn, attend
from bitvar.nn.kv_cache import ScaleCache
from bitvar.nn.linear import linear_gelu
from bitvar.nn.norms import EPSILON, modulated_norm
from bitvar.nn.rope import apply_rope
from bitvar.transformer.block import MAX_LOGIT_SCALE, Block, TextKV, TextMemory


@dataclass(frozen=True)
class FusedBlock:
    """The forward pass of a block, in inference.

    Args:
        fuse: Compiles a function of tensors, or returns it as it is.
    """

    fuse: Callable[[Callable[..., Any]], Callable[..., Any]]

    def __call__(
        self,
        block: Block,
        x: Float[Tensor, "b l c"],
        shared_modulation: Float[Tensor, "b 6 c"],
        text: TextKV | TextMemory,
        rope: Float[Tensor, "l pairs 2"],
        *,
        attention: AttentionFn | None = None,
        cache: ScaleCache | None = None,
    ) -> Float[Tensor, "b l c"]:
        """Compute `block.forward` of these arguments."""
        own, cross, norm = block.modulation, block.cross_attention, block.cross_norm
        q, k, v = self._queries_keys_values(block, self.fuse(_enter)(x, shared_modulation, own), rope)
        if cache is not None:
            k, v = cache.extend(k, v)
        attended = (attention or attend)(q, k, v, scale=1.0)
        projected = block.self_attention.proj(rearrange(attended, "b n l e -> b l (n e)"))
        x, normed = self.fuse(_between)(x, projected, shared_modulation, own, norm.weight, norm.bias)
        x, modulated = self.fuse(_after)(x, cross(normed, text.project(cross)), shared_modulation, own)
        return self.fuse(_leave)(x, block.fc2(linear_gelu(block.fc1, modulated)), shared_modulation, own)

    def _queries_keys_values(
        self, block: Block, x: Float[Tensor, "b l c"], rope: Float[Tensor, "l pairs 2"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        a = block.self_attention
        return self.fuse(_rotate)(a.qkv(x), a.q_bias, a.v_bias, a.logit_scale, rope)


def _modulation(shared: Tensor, own: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return gamma1, gamma2, scale1, scale2, shift1 and shift2, each of shape `(b, 1, c)`."""
    return (shared + own.to(dtype))[:, :, None].unbind(1)


def _enter(x: Tensor, shared: Tensor, own: Tensor) -> Tensor:
    _, _, scale, _, shift, _ = _modulation(shared, own, x.dtype)
    return modulated_norm(x, scale, shift)


def _rotate(
    projected: Tensor, q_bias: Tensor, v_bias: Tensor, logit_scale: Tensor, rope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, heads = projected.dtype, len(logit_scale)
    q, k, v = rearrange(projected, "b l (s n e) -> s b n l e", s=3, n=heads)
    q_bias, v_bias = (rearrange(b.to(dtype), "(n e) -> n 1 e", n=heads) for b in (q_bias, v_bias))
    factor = logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()
    q = F.normalize((q + q_bias).float(), dim=-1) * factor[:, None, None]
    k = F.normalize(k.float(), dim=-1)
    return apply_rope(q, rope).to(dtype), apply_rope(k, rope).to(dtype), v + v_bias


def _between(
    x: Tensor, attended: Tensor, shared: Tensor, own: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    gamma, *_ = _modulation(shared, own, x.dtype)
    x = x + gamma * attended
    return x, F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), EPSILON).to(x.dtype)


def _after(x: Tensor, attended: Tensor, shared: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    _, _, _, scale, _, shift = _modulation(shared, own, x.dtype)
    x = x + attended
    return x, modulated_norm(x, scale, shift)


def _leave(x: Tensor, fed_forward: Tensor, shared: Tensor, own: Tensor) -> Tensor:
    _, gamma, *_ = _modulation(shared, own, x.dtype)
    return x + gamma * fed_forward
