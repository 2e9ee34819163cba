"""Random numbers between those of two seeds, for images between two images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.sampling.noise import batch_noise

_STEP: Final = 2.0**-24
"""Distance between neighbouring uniform numbers (`sampling.noise`)."""


@dataclass(frozen=True)
class MixedNoise:
    """Uniform numbers on the way from each image's seed to another one. Implements `sampling.steering.NoiseSource`.

    The numbers are mapped to normal ones, mixed on the arc between them, which keeps them normal, and mapped back. So
    every image on the way is drawn from the model's own distribution.

    Attributes:
        seeds: Seed of each image.
        other: The other seed.
        weights: Share of the way at every scale, from 0, the image's own seed, to 1, the other one.
    """

    seeds: Sequence[int]
    other: int
    weights: Sequence[float]

    def numbers(self, k: int, shape: Sequence[int], device: torch.device) -> Float[Tensor, "b ..."]:
        weight = self.weights[k]
        if weight in (0, 1):
            return batch_noise(self.seeds if weight == 0 else [self.other] * len(self.seeds), k, shape, device)
        own, other = (batch_noise(seeds, k, shape, device) for seeds in (self.seeds, [self.other]))
        angle = torch.tensor(weight, dtype=torch.float64) * (torch.pi / 2)
        mixed = torch.cos(angle) * _to_normal(own) + torch.sin(angle) * _to_normal(other)
        return torch.special.ndtr(mixed).float().clamp(0, 1 - _STEP)

    def image(self, index: int) -> "MixedNoise":
        return replace(self, seeds=self.seeds[index : index + 1])


def _to_normal(uniform: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Map uniform numbers to standard normal ones, each from the middle of its step so that 0 stays finite."""
    return torch.special.ndtri(uniform.double() + _STEP / 2)
