"""From an edit's settings to hooks of the sampling loop: a prefix, a processor of logits, and a gate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.bits import to_tokens
from bitvar.condition import TextCondition
from bitvar.editing.gate import GROW, GatedSource, gate_at, make_gate
from bitvar.editing.localize import disagreement, make_local_gate
from bitvar.editing.processors import BitTest, Difference, Inversion, Tilt
from bitvar.editing.source import EditSource
from bitvar.editing.spec import EditSpec, Method
from bitvar.errors import UsageError
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.params import ScaleParams
from bitvar.sampling.steering import LogitsProcessor, Steering

Probe = Callable[[Sequence[Tensor], int | None], list[Float[Tensor, "1 _ d 2"]]]
"""Computes a prompt's guided logits on the bits of an image, one tensor a scale: those of the prompt of the image with
the given index, or of the source prompt for None."""


@dataclass(frozen=True)
class MethodDefaults:
    """What a method does where the edit leaves it open.

    Attributes:
        strength: Share of the scales that are drawn anew.
        threshold, confidence, push, trust: As in `EditSpec`.
    """

    strength: float
    threshold: float = 0.2
    confidence: float = 0.7
    push: float = 2.4
    trust: float = 0.3


_DEFAULTS: Final[dict[tuple[Method, str | None], MethodDefaults]] = {
    ("redraw", None): MethodDefaults(0.5),
    ("redraw", "preserve"): MethodDefaults(0.25),
    ("redraw", "text"): MethodDefaults(0.75),
    ("localized", None): MethodDefaults(1.0, threshold=0.35),
    ("localized", "preserve"): MethodDefaults(0.75, threshold=0.5),
    ("localized", "text"): MethodDefaults(1.0, threshold=0.2),
    ("inversion", None): MethodDefaults(1.0),
    ("inversion", "preserve"): MethodDefaults(0.75),
    ("inversion", "text"): MethodDefaults(1.0),
    ("bit-test", None): MethodDefaults(1.0, threshold=0.2),
    ("bit-test", "preserve"): MethodDefaults(0.75, threshold=0.4),
    ("bit-test", "text"): MethodDefaults(1.0, threshold=0.1),
    ("difference", None): MethodDefaults(1.0, confidence=0.7),
    ("difference", "preserve"): MethodDefaults(0.75, confidence=0.8),
    ("difference", "text"): MethodDefaults(1.0, confidence=0.6),
    ("tilt", None): MethodDefaults(1.0),
    ("tilt", "preserve"): MethodDefaults(0.75),
    ("tilt", "text"): MethodDefaults(1.0, push=4.0, trust=1.0),
}
FEATHER: Final = 1 / 64
SEAM: Final = 1 / 256
"""Feather of an exact edit's seam, which lies within the mask: small, since masks often end where an object does."""


@dataclass(frozen=True)
class EditPlan:
    """What the sampling loop needs for an edit.

    Attributes:
        constraint: Scales that are kept.
        steering: Processor of logits, references and gate.
        kept: Number of coarse scales that are kept.
        found_gate: Gate of the part that the prompts disagree on, `(b, 1, h, w)`; None if the method looks for none.
    """

    constraint: PrefixBits
    steering: Steering
    kept: int
    found_gate: Float[Tensor, "b 1 h w"] | None = None


def defaults_of(spec: EditSpec) -> MethodDefaults:
    """The values of an edit's method and preset. A mask limits a redrawing well enough: it keeps no scale by itself."""
    method = spec.chosen_method
    if method == "redraw" and spec.mask is not None and spec.preset is None:
        return MethodDefaults(1.0)
    return _DEFAULTS[method, spec.preset]


def num_kept(spec: EditSpec, num_scales: int) -> int:
    """Compute how many coarse scales an edit keeps. Any strength above 0 draws a scale, any below 1 keeps one."""
    if spec.keep_scales is not None:
        return min(spec.keep_scales, num_scales)
    strength = defaults_of(spec).strength if spec.strength is None else spec.strength
    if strength in (0, 1):
        return 0 if strength else num_scales
    return min(max(1, math.floor((1 - strength) * num_scales + 0.5)), num_scales - 1)


def num_determined(source: EditSource) -> int:
    """Compute how many coarse scales an image of its size determines: those without more cells than it had detail for.

    Raises:
        UsageError: if that is all of them, so that there is nothing to add.
    """
    left, top, right, bottom = source.frame.box
    share = min((bottom - top) / source.frame.canvas_size[1], (right - left) / source.frame.canvas_size[0])
    rows, columns = _grid(source.bits[-1])
    kept = sum(_grid(bits)[0] <= rows * share and _grid(bits)[1] <= columns * share for bits in source.bits)
    if kept == len(source.bits):
        width, height = source.frame.canvas_size
        why = f"it is drawn at {width}x{height} pixels, which it has already"
        raise UsageError("The image can't be upscaled.", why, "ask for a larger size that the model draws")
    return kept


def plan_edit(
    spec: EditSpec,
    source: EditSource,
    *,
    params: Sequence[ScaleParams],
    seeds: Sequence[int],
    patch_size: int,
    code_norms: Sequence[float],
    reference: TextCondition | None,
    probe: Probe,
) -> EditPlan:
    """Plan an edit.

    Args:
        spec: Settings of the edit.
        source: Image as bits.
        params: Sampling parameters of each scale.
        seeds: Seed of each image.
        patch_size: Side of a token in tokenizer cells.
        code_norms: Norm of each scale's codes.
        reference: Condition of the source prompt, a row for each image; None without one.
        probe: Computes the source prompt's logits on the source image.
    """
    kept = num_kept(spec, len(params)) if not spec.upscale else num_determined(source)
    gate = found = None
    if source.original.mask is not None:
        mask = source.frame.view_mask(source.original.mask)
        grow, feather = _given(spec.grow, GROW), _given(spec.feather, FEATHER)
        gate = make_gate(mask, _grid(source.bits[-1]), grow=grow, feather=feather).to(source.bits[0].device)
    if spec.chosen_method == "localized":
        found = _localized(spec, source, params=params, num_images=len(seeds), patch_size=patch_size, probe=probe)
        gate = found if gate is None else found * gate
    processor = _processor(spec, source, gate, params=params, seeds=seeds, patch_size=patch_size, probe=probe)
    compares = isinstance(processor, Difference | Tilt)
    steering = Steering(
        processor=processor,
        references=(reference,) if compares and reference is not None else (),
        blend=None if gate is None else GatedSource(source.bits, gate, code_norms),
    )
    return EditPlan(PrefixBits(source.bits[:kept]), steering, kept, found)


def _processor(
    spec: EditSpec,
    source: EditSource,
    gate: Tensor | None,
    *,
    params: Sequence[ScaleParams],
    seeds: Sequence[int],
    patch_size: int,
    probe: Probe,
) -> LogitsProcessor | None:
    method, usual = spec.chosen_method, defaults_of(spec)
    if method in ("redraw", "localized"):
        return None
    if method == "tilt":
        assert gate is not None, "the specification asks for a mask"
        gates = [_as_tokens(gate_at(gate, _grid(bits)), bits, patch_size) for bits in source.bits]
        push, trust = _given(spec.push, usual.push), _given(spec.trust, usual.trust)
        return Tilt(gates, push, trust)
    tokens = [to_tokens(bits.float(), patch_size) > 0.5 for bits in source.bits]
    if method == "difference":
        return Difference(tokens, params, _given(spec.confidence, usual.confidence))
    logits = probe(source.bits, None)
    if method == "bit-test":
        return BitTest(tokens, logits, params, _given(spec.threshold, usual.threshold))
    return Inversion(tokens, logits, params, seeds)


def _localized(
    spec: EditSpec,
    source: EditSource,
    *,
    params: Sequence[ScaleParams],
    num_images: int,
    patch_size: int,
    probe: Probe,
) -> Float[Tensor, "b 1 h w"]:
    """Find where each image's prompt disagrees with the source prompt."""
    before = probe(source.bits, None)
    found = [
        disagreement(source.bits, before, probe(source.bits, index), params=params, patch_size=patch_size)
        for index in range(num_images)
    ]
    threshold = _given(spec.threshold, defaults_of(spec).threshold)
    grow = round((spec.grow or 0.0) * max(_grid(source.bits[-1])))
    return make_local_gate(torch.cat(found), threshold=threshold, grow=grow)


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value


def _grid(bits: Bool[Tensor, "1 d h w"]) -> tuple[int, int]:
    return bits.shape[-2], bits.shape[-1]


def _as_tokens(cells: Float[Tensor, "1 1 h w"], bits: Bool[Tensor, "1 d h w"], patch_size: int) -> Tensor:
    """Give every bit of a token the value of its cell, in the order of the token's bits."""
    return to_tokens(cells.expand(-1, bits.shape[1], -1, -1).contiguous(), patch_size)
