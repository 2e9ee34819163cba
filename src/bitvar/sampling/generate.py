"""The one autoregressive loop. It yields the latent after each scale; previews, editing and cancelling hang on this.

The rounding of a matrix product may depend on how many rows it has. `generate_apart` therefore runs the loop once an
image, in lockstep: every operation has the shape it has when the image is generated alone, so its neighbours can't
change a bit of it, in any precision. `generate` takes the batch in one pass, which accelerators do faster.

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
from bitvar.finite import require_finite
from bitvar.sampling.draw import draw_bits, guide
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule, code_norms_of
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


class _Drawn(NamedTuple):
    """A scale whose logits nobody has looked at yet: looking makes the host wait for the device.

    Attributes:
        result: what to yield if the logits are finite.
        logits: guided; None where the bits were given.
    """

    result: ScaleResult
    logits: Tensor | None


def generate(
    model: InfinityTransformer,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None = None,
    given_bits: Mapping[int, Bool[Tensor, "b d _ _"]] | None = None,
) -> Iterator[ScaleResult]:
    """Generate the bits of every scale, coarse to fine, the whole batch in one pass.

    Args:
        model: the transformer.
        condition: `b` prompts.
        schedule: the grids.
        params: how to draw.
        seeds: one an image, from 0 to 2^63 - 1; the only source of randomness.
        negative: `b` negative prompts for guidance, in place of the learned "no text"; a row marked as dropped is it.
        given_bits: scale -> its bits in tokenizer cells, taken as they are instead of drawn.

    Yields the result of each scale. Closing the iterator cancels the rest.

    Raises:
        ComputationError: when logits are not finite; nothing of that scale is yielded.
    """
    for drawn in _scales(
        model, condition, schedule, params=params, seeds=seeds, negative=negative, given_bits=given_bits or {}
    ):
        _require_finite([drawn], model, len(schedule))
        yield drawn.result


def generate_apart(
    model: InfinityTransformer,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None = None,
    given_bits: Mapping[int, Bool[Tensor, "b d _ _"]] | None = None,
) -> Iterator[ScaleResult]:
    """`generate`, each image by itself: bit for bit what a batch of one gives. Arguments and errors: as there."""
    given = given_bits or {}
    walks = [
        _scales(
            model,
            alone,
            schedule,
            params=params,
            seeds=[seeds[row]],
            negative=against,
            given_bits={k: bits[row : row + 1] for k, bits in given.items()},
        )
        for row, (alone, against) in enumerate(
            zip(condition.rows(), negative.rows() if negative else [None] * condition.batch, strict=True)
        )
    ]
    for drawn in zip(*walks, strict=True):
        _require_finite(drawn, model, len(schedule))
        results = [part.result for part in drawn]
        bits, latents = (torch.cat([getattr(result, name) for result in results]) for name in ("bits", "latent"))
        yield ScaleResult(results[0].k, bits, latents)


def _scales(
    model: InfinityTransformer,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None,
    given_bits: Mapping[int, Tensor],
) -> Iterator[_Drawn]:
    per_scale = params.per_scale(len(schedule))
    batch, last = condition.batch, len(schedule) - 1
    assert len(seeds) == batch, "one seed an image"
    last_guided = max((k for k, entry in enumerate(per_scale) if entry.guidance_scale != 1.0), default=-1)
    if last_guided >= 0:
        condition = condition.concatenate(negative or condition.drop(torch.ones(batch, dtype=torch.bool)))
    patch_size = model.config.patch_size
    grids = schedule.latent_grids(patch_size)
    code_norms = code_norms_of(model.config.code_norms, len(schedule))

    with torch.inference_mode():
        state = model.start_decoding(condition, schedule)
        tokens = model.start_tokens(state.condition)
        latent = pyramid.empty_latent(batch, model.config.bits // patch_size**2, grids[-1], model.device)
    for k, grid in enumerate(schedule):
        with torch.inference_mode():
            if k == last_guided + 1 and tokens.shape[0] > batch:  # no later scale is guided: go on with half the work
                state.keep_rows(batch)
                tokens = tokens[:batch]
            bits, logits = given_bits.get(k), None
            if bits is None:
                logits = _guided(model.decode_scale(tokens, k, state), batch, per_scale[k])
                noise = torch.stack([uniform_noise(seed, k, logits.shape[1:3]) for seed in seeds])
                bits = model.to_cells(draw_bits(logits, per_scale[k], noise), grid)
            elif k < last:
                model.decode_scale(tokens, k, state)  # given bits need no logits, but later scales need the cache
            latent = pyramid.add_scale(latent, bits_to_codes(bits, code_norms[k]))
            if k < last:
                resized = pyramid.next_input(latent, grids[k + 1])
                tokens = model.embed(resized, k + 1).repeat(tokens.shape[0] // batch, 1, 1)
        yield _Drawn(ScaleResult(k, bits, latent), logits)


def _require_finite(drawn: Sequence[_Drawn], model: InfinityTransformer, num_scales: int) -> None:
    """Refuse a scale with a logit that is NaN or infinite: a draw would take every such bit for a zero.

    One question to the device a scale, whatever the number of images.
    """
    logits = [part.logits for part in drawn if part.logits is not None]
    if logits and not torch.stack([torch.isfinite(part).all() for part in logits]).all():
        what = f"the transformer's logits at scale {drawn[0].result.k + 1} of {num_scales}"
        require_finite(torch.cat(logits), what, precision=model.dtype)


def _guided(logits: Float[Tensor, "_ l d 2"], batch: int, params: SamplingParams) -> Float[Tensor, "b l d 2"]:
    if logits.shape[0] == batch:
        return logits
    assert isinstance(params.guidance_scale, (int, float)), "spread per-scale values first"
    return guide(logits[:batch], logits[batch:], params.guidance_scale)
