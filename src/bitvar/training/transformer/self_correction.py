"""Bitwise self-correction: training on inputs with random bit errors (Han et al., arXiv 2412.04431)."""

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
    """Inputs and targets of a transformer step.

    Attributes:
        inputs: Latent so far at the grid of each scale from 1 on, flips included.
        target_bits: True bits of every token, of shape `(b, l, d)`.
    """

    inputs: list[Tensor]
    target_bits: Tensor


def random_flip(
    *, max_strength: float, num_corrected_scales: int, generators: Sequence[torch.Generator]
) -> pyramid.Flip:
    """Return a function that flips bits at random.

    At each scale below `num_corrected_scales`, it draws a strength from {0, 0.01, ..., max_strength} for each image and
    flips each of its bits with that probability. Every image has its own generator.
    """
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
    """Compute the inputs and targets of every scale.

    Finer targets are quantised from the residual after the flips, while a scale's own target stays unflipped, so that
    the model learns to correct earlier errors. Without `requantize_after_flip`, all targets are those of the unflipped
    image and only the inputs contain the flipped bits: the model sees errors, but isn't trained to correct them.

    Args:
        features: Features of the frozen tokenizer's encoder.
        schedule: Schedule of the images.
        patch_size: Tokenizer cells per token side.
        code_norms: Norms of the codes of the model's whole schedule, which may have more scales than `schedule`.
        flip: Function that flips bits, from `random_flip`; None flips nothing.
        requantize_after_flip: Whether finer targets are quantised after the flips.
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
