"""Hooks that steer the loop beyond its parameters: further prompts, changed log-odds, and blending in code space.

Every way of editing and controlling an image is one of these, or a `BitConstraint`; there is no second loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.sampling.draw import apply_guidance

CERTAIN: Final = 1e4
"""Log-odds of a bit that no temperature up to 100 leaves to chance."""


class ScaleLogits(NamedTuple):
    """The logits of one scale, all computed from the same latent so far.

    Attributes:
        conditional: Logits `(b, l, d, 2)` given the prompt.
        unconditional: Logits given the negative prompt or no text; None where the scale is not guided.
        references: Logits given each reference prompt.
        guidance_scale: Guidance scale of this scale.
    """

    conditional: Float[Tensor, "b l d 2"]
    unconditional: Float[Tensor, "b l d 2"] | None
    references: tuple[Float[Tensor, "b l d 2"], ...]
    guidance_scale: float

    def guided(self, conditional: Float[Tensor, "b l d 2"] | None = None) -> Float[Tensor, "b l d 2"]:
        """Apply guidance to the prompt's logits, or to those of a reference."""
        conditional = self.conditional if conditional is None else conditional
        if self.unconditional is None:
            return conditional
        return apply_guidance(conditional, self.unconditional, self.guidance_scale)


@runtime_checkable
class LogitsProcessor(Protocol):
    """Decides the logits that the bits of a scale are drawn from."""

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        """Compute the logits to draw from, all finite, at scale `k`. Scales come in order, each once."""
        ...

    def image(self, index: int) -> "LogitsProcessor":
        """A processor that has seen no scale yet, for one image of the batch."""
        ...


@runtime_checkable
class LatentBlend(Protocol):
    """Decides what a scale adds to the latent."""

    def blend(self, k: int, new: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Change the codes of scale `k`, which are resized to the last scale's grid."""
        ...

    def image(self, index: int) -> "LatentBlend":
        """The blend of one image of the batch."""
        ...


@runtime_checkable
class LogitsTransform(Protocol):
    """A function of one scale's guided logits, such as a temperature that adapts to them."""

    def transform(self, k: int, logits: Float[Tensor, "b l d 2"]) -> Float[Tensor, "b l d 2"]:
        """Compute the logits to draw from, all finite, at scale `k`. Scales come in order, each once."""
        ...

    def image(self, index: int) -> "LogitsTransform":
        """A transform that has seen no scale yet, for one image of the batch."""
        ...


@runtime_checkable
class NoiseSource(Protocol):
    """The random numbers that bits are drawn with, in place of those of the seeds alone."""

    def numbers(self, k: int, shape: Sequence[int], device: torch.device) -> Float[Tensor, "b ..."]:
        """Make numbers in [0, 1) for scale `k`; `shape` is one image's."""
        ...

    def image(self, index: int) -> "NoiseSource":
        """The source of one image of the batch."""
        ...


@dataclass(frozen=True)
class Steering:
    """What acts on the loop besides its parameters and its constraint.

    Attributes:
        processor: Computes the logits to draw from; None for guidance alone.
        references: Further prompts, each a condition of `b` rows. Their logits reach the processor; each costs as much
            as the prompt.
        transforms: Functions of the guided logits, or of the processor's, applied one after the other.
        noise: Random numbers to draw with; None for those of the seeds.
        blend: Changes what each scale adds to the latent; None adds the codes as they are.
        last_reference: Index of the last scale whose references are needed; None for the last scale of all.
    """

    processor: LogitsProcessor | None = None
    references: tuple[TextCondition, ...] = ()
    transforms: tuple[LogitsTransform, ...] = ()
    noise: NoiseSource | None = None
    blend: LatentBlend | None = None
    last_reference: int | None = None

    def image(self, index: int) -> "Steering":
        """The steering of one image of the batch."""
        return Steering(
            processor=None if self.processor is None else self.processor.image(index),
            references=tuple(reference.rows()[index] for reference in self.references),
            transforms=tuple(transform.image(index) for transform in self.transforms),
            noise=None if self.noise is None else self.noise.image(index),
            blend=None if self.blend is None else self.blend.image(index),
            last_reference=self.last_reference,
        )


def margins(logits: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    """Compute each bit's log-odds, the logit of a 1 minus that of a 0, in fp32."""
    return logits[..., 1].float() - logits[..., 0].float()


def from_margins(log_odds: Float[Tensor, "*n"]) -> Float[Tensor, "*n 2"]:
    """Make logits with the given log-odds: half of them for a 1, minus half for a 0."""
    return torch.stack([-log_odds / 2, log_odds / 2], dim=-1)


def force_bits(
    logits: Float[Tensor, "*n 2"], bits: Bool[Tensor, "*n"], where: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n 2"]:
    """Make bits certain where `where` is True, and leave the other logits as they are."""
    certain = from_margins((bits.float() * 2 - 1) * CERTAIN)
    return torch.where(where[..., None], certain.to(logits.dtype), logits)
