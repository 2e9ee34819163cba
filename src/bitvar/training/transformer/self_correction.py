"""Bitwise self-correction: training data that holds the model's own kind of mistakes (arXiv 2412.04431)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import to_tokens
from bitvar.scales import ScaleSchedule
from bitvar.training.engine.microbatch import draw_uniform


class TeacherForcing(NamedTuple):
    """What a transformer step needs of an image.

    Attributes:
        inputs: for scales 1 and up, the latent so far at that scale's grid, flips included.
        target_bits: `(b, l, d)`, the true bits of every token.
    """

    inputs: list[Tensor]
    target_bits: Tensor


def random_flip(
    *, max_strength: float, num_corrected_scales: int, generators: Sequence[torch.Generator]
) -> pyramid.Flip:
    """Flip bits at random: at each scale below `num_corrected_scales`, for each image, draw a strength from
    {0, 0.01, ..., max_strength} and flip each bit with that probability. Every image has its own generator."""
    levels = round(max_strength * 100)

    def flip(k: int, bits: Bool[Tensor, "b d h w"]) -> Bool[Tensor, "b d h w"]:
        if k >= num_corrected_scales:
            return bits
        strength = (draw_uniform(generators, 1, 1, 1) * (levels + 1)).floor() / 100
        noise = draw_uniform(generators, *bits.shape[1:]) < strength
        return bits ^ noise.to(bits.device)

    return flip


def teacher_forcing(
    features: Float[Tensor, "b d h w"],
    schedule: ScaleSchedule,
    *,
    patch_size: int,
    code_norms: Sequence[float] | None = None,
    flip: pyramid.Flip | None = None,
    requantize_after_flip: bool = True,
) -> TeacherForcing:
    """Inputs and targets of every scale; `code_norms` has the norms of the whole schedule, which may have more scales.

    Finer targets are quantised from the corrected residual; each scale's own target stays unflipped, so the model
    learns to repair what came before. Without `requantize_after_flip`, every target is that of the unflipped image,
    and the inputs add up its flipped bits: the model meets mistakes, and is not asked to repair them.
    """
    grids = schedule.latent_grids(patch_size)
    steps = list(pyramid.encode(features, grids, code_norms, flip=flip if requantize_after_flip else None))
    latents = [step.latent for step in steps]
    if flip is not None and not requantize_after_flip:
        flipped = [flip(k, step.bits) for k, step in enumerate(steps)]
        latents = list(pyramid.cumulative_latents(flipped, (features.shape[-2], features.shape[-1]), code_norms))
    inputs = [pyramid.next_input(latent, grid) for latent, grid in zip(latents, grids[1:], strict=False)]
    bits = torch.cat([to_tokens(step.bits.float(), patch_size) for step in steps], dim=1) > 0
    return TeacherForcing(inputs, bits)
