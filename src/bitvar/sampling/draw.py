"""From logits to bits: guidance and the draw of one bit. With two classes, top-k and top-p need no sort."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.sampling.params import ScaleParams


def apply_guidance(
    conditional: Float[Tensor, "b l d 2"], unconditional: Float[Tensor, "b l d 2"], guidance_scale: float
) -> Float[Tensor, "b l d 2"]:
    """Apply classifier-free guidance: `g cond + (1 - g) uncond` (dividing both by the temperature commutes with it)."""
    return torch.lerp(unconditional, conditional, guidance_scale)


def bit_probability(
    logits: Float[Tensor, "*n 2"], *, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0
) -> Float[Tensor, "*n"]:
    """Compute the probability of a 1 after temperature, top-k and top-p, in fp32.

    top-p keeps the smallest set of values whose probability reaches `top_p`, so a bit is certain once the less likely
    value's probability is at most `1 - top_p`.
    """
    margin = logits[..., 1].float() - logits[..., 0].float()
    greedy = (margin > 0).float()
    if top_k == 1 or temperature == 0:
        return greedy
    one = torch.sigmoid(margin / temperature)
    if top_p == 0:
        return one
    return torch.where(torch.minimum(one, 1 - one) <= 1 - top_p, greedy, one)


def draw_bits(
    logits: Float[Tensor, "b l d 2"], params: ScaleParams, noise: Float[Tensor, "b l d"]
) -> Bool[Tensor, "b l d"]:
    """Draw every bit of a scale.

    Args:
        logits: Guided logits, all finite.
        params: Settings of this scale.
        noise: Uniform numbers in [0, 1) (`noise.uniform_noise`).
    """
    one = bit_probability(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
    return noise.to(one.device) < one
