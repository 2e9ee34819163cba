"""The one autoregressive loop. It yields the latent after each scale; previews, editing and cancelling hang on this.

The rounding of a matrix product may depend on how many rows it has. `generate_apart` therefore runs the loop once an
image, in lockstep: every operation has the shape it has when the image is generated alone, so its neighbours can't
change a bit of it, in any precision. `generate` takes the batch in one pass, which accelerators do faster.

Knows a decoder and the pyramid, not the tokenizer or pixels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes, to_cells
from bitvar.condition import TextCondition
from bitvar.finite import require_finite
from bitvar.sampling.constraint import BitConstraint, PrefixBits
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.draw import draw_bits
from bitvar.sampling.noise import batch_noise
from bitvar.sampling.params import SamplingParams, ScaleParams
from bitvar.sampling.steering import ScaleLogits, Steering
from bitvar.sampling.watermark import Watermark
from bitvar.scales import ScaleSchedule, code_norms_of


class ScaleResult(NamedTuple):
    """What one scale added.

    Attributes:
        k: Index of the scale.
        bits: Tensor of shape `(b, d, h_k, w_k)` in tokenizer cells.
        latent: Tensor of shape `(b, d, h, w)`, the sum so far.
    """

    k: int
    bits: Tensor
    latent: Tensor


class _Drawn(NamedTuple):
    """A scale whose logits have not been checked yet: checking makes the host wait for the device.

    Attributes:
        result: Result to yield if the logits are finite.
        logits: Guided logits; None where the scale needed no draw.
    """

    result: ScaleResult
    logits: Tensor | None


def generate(
    model: ScaleDecoder[Any],
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None = None,
    constraint: BitConstraint | None = None,
    watermark: Watermark | None = None,
    steering: Steering | None = None,
    streamed: bool = True,
) -> Iterator[ScaleResult]:
    """Generate the bits of every scale, coarse to fine, the whole batch in one pass.

    Args:
        model: Decoder that computes the logits.
        condition: Text of `b` prompts.
        schedule: Grids to generate.
        params: Settings of the draw.
        seeds: One seed an image, from 0 to 2^63 - 1; the only source of randomness.
        negative: Text of `b` negative prompts for guidance, in place of the learned "no text"; rows marked as dropped
            are that "no text".
        constraint: Hook that may replace the bits that were drawn.
        watermark: Watermark to draw the bits with. Bits that the constraint replaces don't carry it.
        steering: Further prompts and hooks; None for none.
        streamed: Whether each scale is wanted as soon as it is drawn. Otherwise all of them are checked and yielded at
            the end, so that the host doesn't wait for the device between scales.

    Yields the result of each scale. Closing the iterator cancels the rest.

    Raises:
        ComputationError: when logits are not finite; nothing of that scale is yielded.
    """
    walk = _scales(
        model,
        condition,
        schedule,
        params=params,
        seeds=seeds,
        negative=negative,
        constraint=constraint,
        watermark=watermark,
        steering=steering,
    )
    yield from _checked([walk], model, len(schedule), streamed=streamed)


def generate_apart(
    model: ScaleDecoder[Any],
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None = None,
    constraint: BitConstraint | None = None,
    watermark: Watermark | None = None,
    steering: Steering | None = None,
    streamed: bool = True,
) -> Iterator[ScaleResult]:
    """Generate like `generate`, each image by itself: bit for bit what a batch of one gives."""
    walks = [
        _scales(
            model,
            alone,
            schedule,
            params=params,
            seeds=[seeds[row]],
            negative=against,
            constraint=None if constraint is None else constraint.image(row),
            watermark=watermark,
            steering=None if steering is None else steering.image(row),
        )
        for row, (alone, against) in enumerate(
            zip(condition.rows(), negative.rows() if negative else [None] * condition.batch, strict=True)
        )
    ]
    yield from _checked(walks, model, len(schedule), streamed=streamed)


def _checked(
    walks: Sequence[Iterator[_Drawn]], model: ScaleDecoder[Any], num_scales: int, *, streamed: bool
) -> Iterator[ScaleResult]:
    """Run walks in lockstep, and yield the results of each scale, joined, once its logits are known to be finite."""
    unchecked: list[tuple[_Drawn, ...]] = []
    for drawn in zip(*walks, strict=True):
        unchecked.append(drawn)
        if streamed or drawn[0].result.k == num_scales - 1:
            _require_finite(unchecked, model, num_scales)
            yield from map(_join, unchecked)
            unchecked.clear()


def _join(drawn: Sequence[_Drawn]) -> ScaleResult:
    results = [walk.result for walk in drawn]
    if len(results) == 1:
        return results[0]
    bits, latents = (torch.cat([getattr(result, name) for result in results]) for name in ("bits", "latent"))
    return ScaleResult(results[0].k, bits, latents)


def _scales(
    model: ScaleDecoder[Any],
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    params: SamplingParams,
    seeds: Sequence[int],
    negative: TextCondition | None,
    constraint: BitConstraint | None,
    watermark: Watermark | None,
    steering: Steering | None,
) -> Iterator[_Drawn]:
    per_scale = params.scales(len(schedule))
    constraint, steering = constraint or PrefixBits(()), steering or Steering()
    batch, last = condition.batch, len(schedule) - 1
    assert len(seeds) == batch, "one seed an image"
    groups = _groups(per_scale, steering)
    if groups[0] > 1:
        condition = _conditions(condition, negative, steering, guided=_is_guided(per_scale, 0))
    patch_size = model.config.patch_size
    grids = schedule.latent_grids(patch_size)
    code_norms = code_norms_of(model.config.code_norms, len(schedule))

    with torch.inference_mode():
        state = model.start_decoding(condition, schedule)
        tokens = state.start
        latent = pyramid.empty_latent(batch, model.config.bits // patch_size**2, grids[-1], model.device)
    for step in schedule.steps(model.config.bits):
        k = step.index
        with torch.inference_mode():
            if k and groups[k] < groups[k - 1]:  # no later scale needs the other rows: a smaller segment begins
                state, tokens = model.next_segment(state, groups[k] * batch), tokens[: groups[k] * batch]
            drawn = logits = None
            if constraint.needs_draw(k):
                logits = model.decode_scale(tokens, k, state)
                logits = _combine(k, logits.split(batch), per_scale, steering)
                noise = _noise(seeds, k, logits, steering)
                lists = None if watermark is None else watermark.green_lists(k, *logits.shape[1:3])
                drawn = to_cells(draw_bits(logits, per_scale[k], noise, lists), step.grid, patch_size)
            elif k < last:
                model.decode_scale(tokens, k, state)  # its bits are known, but later scales read its keys and values
            bits = constraint.apply(k, drawn, latent)
            codes = bits_to_codes(bits, code_norms[k])
            if steering.blend is None:
                latent = pyramid.add_scale(latent, codes)
            else:
                latent = latent + steering.blend.blend(k, pyramid.enlarge(codes, grids[-1]))
            if k < last:
                resized = pyramid.next_input(latent, grids[k + 1])
                tokens = model.embed(resized, k + 1).repeat(groups[k], 1, 1)
        yield _Drawn(ScaleResult(k, bits, latent), logits)


def _is_guided(per_scale: Sequence[ScaleParams], k: int) -> bool:
    """Whether a scale from `k` on is guided, so that its unconditional rows are decoded."""
    return any(scale.guidance_scale != 1.0 for scale in per_scale[k:])


def _groups(per_scale: Sequence[ScaleParams], steering: Steering) -> list[int]:
    """Return the number of conditions of each scale, in the order of `_conditions`; it never grows.

    The unconditional rows come before the references, so they stay as long as a reference is needed.
    """
    num_scales = len(per_scale)
    last = num_scales - 1 if steering.last_reference is None else steering.last_reference
    unconditional = int(_is_guided(per_scale, 0))
    return [
        1 + unconditional + len(steering.references)
        if steering.references and k <= last
        else 1 + int(_is_guided(per_scale, k))
        for k in range(num_scales)
    ]


def _conditions(
    condition: TextCondition, negative: TextCondition | None, steering: Steering, *, guided: bool
) -> TextCondition:
    """Join the conditions that are decoded together: the prompt, no text where guided, and the references."""
    no_text = condition.drop(torch.ones(condition.batch, dtype=torch.bool))
    for other in (*([negative or no_text] if guided else []), *steering.references):
        condition = condition.concatenate(other)
    return condition


def _combine(k: int, logits: Sequence[Tensor], per_scale: Sequence[ScaleParams], steering: Steering) -> Tensor:
    """Apply guidance, or the steering's processor, to the logits of each condition."""
    guidance_scale = per_scale[k].guidance_scale
    has_unconditional = _is_guided(per_scale, 0 if len(logits) > 2 else k)
    unconditional = logits[1] if has_unconditional else None
    references = tuple(logits[2 if has_unconditional else 1 :])
    together = ScaleLogits(logits[0], unconditional, references, guidance_scale)
    result = together.guided() if steering.processor is None else steering.processor.process(k, together)
    for transform in steering.transforms:
        result = transform.transform(k, result)
    return result


def _noise(seeds: Sequence[int], k: int, logits: Tensor, steering: Steering) -> Tensor:
    if steering.noise is None:
        return batch_noise(seeds, k, logits.shape[1:3], logits.device)
    return steering.noise.numbers(k, logits.shape[1:3], logits.device)


def _require_finite(scales: Sequence[Sequence[_Drawn]], model: ScaleDecoder[Any], num_scales: int) -> None:
    """Refuse scales with a logit that is NaN or infinite: a draw would take every such bit for a zero.

    It waits for the device once, whatever the number of scales and images.
    """
    logits = [[walk.logits for walk in drawn if walk.logits is not None] for drawn in scales]
    finite = [torch.isfinite(part).all() for parts in logits for part in parts]
    if not finite or torch.stack(finite).all():
        return
    for drawn, parts in zip(scales, logits, strict=True):
        if parts:
            what = f"the transformer's logits at scale {drawn[0].result.k + 1} of {num_scales}"
            require_finite(torch.cat(parts), what, precision=model.dtype)
