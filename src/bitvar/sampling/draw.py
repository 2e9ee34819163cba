"""From logits to bits: guidance, the watermark's bias, and the draw. With two classes, top-k and top-p need no sort."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.sampling.params import ScaleParams
from bitvar.sampling.watermark import GreenLists


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
    logits: Float[Tensor, "b l d 2"],
    params: ScaleParams,
    noise: Float[Tensor, "b l d"],
    lists: GreenLists | None = None,
) -> Bool[Tensor, "b l d"]:
    """Draw every bit of a scale.

    Args:
        logits: Guided logits, all finite.
        params: Settings of this scale.
        noise: Uniform numbers in [0, 1) (`noise.uniform_noise`).
        lists: Green lists to be biased towards; None for no watermark.
    """
    noise = noise.to(logits.device)
    if lists is None:
        return _draw(logits, params, noise)
    shift = torch.tensor([0.0, lists.delta], device=logits.device)
    if_green, if_red = (_draw(logits.float() + sign * shift, params, noise) for sign in (1, -1))
    return _resolve(if_green, if_red, torch.from_numpy(lists.values).to(logits.device))


def _draw(
    logits: Float[Tensor, "b l d 2"], params: ScaleParams, noise: Float[Tensor, "b l d"]
) -> Bool[Tensor, "b l d"]:
    return noise < bit_probability(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)


def _resolve(
    if_green: Bool[Tensor, "b l d"], if_red: Bool[Tensor, "b l d"], values: Bool[Tensor, "l d contexts"]
) -> Bool[Tensor, "b l d"]:
    """Choose between the two outcomes of each bit by its green list, bit after bit, in all tokens at once.

    Args:
        if_green: Outcomes where a 1 is green.
        if_red: Outcomes where a 0 is green. No bit is 1 here and 0 in `if_green`.
        values: Green value of each bit after each context.
    """
    batch, tokens, bits = if_green.shape
    mask = values.shape[-1] - 1
    if not mask:  # no bit depends on another
        return torch.where(values[..., 0], if_green, if_red)
    rows = torch.arange(tokens, device=values.device)
    context = torch.zeros(batch, tokens, dtype=torch.int64, device=values.device)
    drawn = torch.empty_like(if_green)
    for i in range(bits):
        green = values[rows, i, context]
        drawn[..., i] = bit = torch.where(green, if_green[..., i], if_red[..., i])
        context = (context << 1 | bit) & mask
    return drawn
