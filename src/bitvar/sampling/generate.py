"""The one autoregressive loop. It yields the latent after each scale; previews, editing and cancelling hang on this.

Knows the transformer and the pyramid, not the tokenizer or pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.condition import TextCondition
from bitvar.sampling.draw import draw_bits, guide
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule, lengths_of
from bitvar.transformer import InfinityTransformer


class ScaleResult(NamedTuple):
    """What one scale added.

    Attributes:
        k: the scale.
        bits: `(b, d, h_k, w_k)` in tokenizer cells.
        latent: `(b, d, h, w)`, the sum so far.
    """

    k: int
    bits: Tensor
    latent: Tensor


def generate(
    model: InfinityTransformer,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    generators: Sequence[torch.Generator],
    negative: TextCondition | None = None,
    given_bits: Mapping[int, Bool[Tensor, "b d _ _"]] | None = None,
) -> Iterator[ScaleResult]:
    """Generate the bits of every scale, coarse to fine.

    Args:
        model: the transformer.
        condition: `b` prompts.
        schedule: the grids.
        params: how to draw.
        generators: one a prompt; the only source of randomness.
        negative: `b` negative prompts for guidance, in place of the learned "no text".
        given_bits: scale -> its bits in tokenizer cells, taken as they are instead of drawn.

    Yields the result of each scale. Closing the iterator cancels the rest.
    """
    per_scale = params.per_scale(len(schedule))
    batch, last = condition.batch, len(schedule) - 1
    last_guided = max((k for k, entry in enumerate(per_scale) if entry.guidance_scale != 1.0), default=-1)
    if last_guided >= 0:
        condition = condition.concatenate(negative or condition.drop(torch.ones(batch, dtype=torch.bool)))
    patch_size = model.config.patch_size
    grids = schedule.latent_grids(patch_size)
    lengths = lengths_of(model.config.code_lengths, len(schedule))

    with torch.inference_mode():
        state = model.begin(condition, schedule)
        tokens = model.start_tokens(state.condition)
        latent = pyramid.empty_latent(batch, model.config.bits // patch_size**2, grids[-1], model.device)
    for k, grid in enumerate(schedule):
        with torch.inference_mode():
            if k == last_guided + 1 and tokens.shape[0] > batch:  # no later scale is guided: go on with half the work
                state.keep_rows(batch)
                tokens = tokens[:batch]
            bits = (given_bits or {}).get(k)
            if bits is None:
                logits = _guided(model.decode_scale(tokens, k, state), batch, per_scale[k])
                bits = model.to_cells(draw_bits(logits, per_scale[k], generators), grid)
            elif k < last:
                model.decode_scale(tokens, k, state)  # given bits need no logits, but later scales need the cache
            latent = pyramid.add_scale(latent, bits_to_codes(bits, lengths[k]))
            if k < last:
                resized = pyramid.next_input(latent, grids[k + 1])
                tokens = model.embed(resized, k + 1).repeat(tokens.shape[0] // batch, 1, 1)
        yield ScaleResult(k, bits, latent)


def _guided(logits: Float[Tensor, "_ l d 2"], batch: int, params: SamplingParams) -> Float[Tensor, "b l d 2"]:
    if logits.shape[0] == batch:
        return logits
    assert isinstance(params.guidance_scale, (int, float)), "spread per-scale values first"
    return guide(logits[:batch], logits[batch:], params.guidance_scale)
