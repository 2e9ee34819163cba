"""How an edit's prompts act on the log-odds of bits: four methods, each a function of one scale's logits.

`p_t` and `p_s` are the probabilities of a 1 given the target and the source prompt. `inversion` and `bit-test` take
`p_s` on the source image's own scales; `difference` and `tilt` compute both on the edited scales. With two equal
prompts, the first three change nothing.

Sources: bit-test, AREdit (arXiv 2503.23897); difference, EditMod (arXiv 2608.09057); tilt, BitResEdit (arXiv
2606.13558). `inversion` is the exact coupling of the two draws, the binary form of what VARIN (arXiv 2509.01984) does
with Gumbel noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.sampling.draw import bit_probability
from bitvar.sampling.noise import batch_noise
from bitvar.sampling.params import ScaleParams
from bitvar.sampling.steering import ScaleLogits, force_bits, from_margins, margins

_LEAST: Final = 1e-6
"""Smallest probability of a bit that counts as possible, so that images the model would never draw can be kept."""

_BISECTIONS: Final = 12
_MAX_CHANGE: Final = 5.0
"""Most by which `tilt` changes a bit's log-odds, whatever its trust region allows."""


@dataclass(frozen=True)
class Inversion:
    """Draws each bit with the random number that would have drawn the source's bit given the source prompt.

    A bit changes with probability `max(0, 1 - p_t / p_s)` if it is a 1, and likewise if it is a 0: the least that turns
    a draw given the source prompt into a draw given the target prompt.

    Attributes:
        bits: Source's bits of every scale as tokens, `(1, l, d)`.
        source: Guided logits of the source prompt on the source image's scales, `(1, l, d, 2)` each.
        params: Settings of each scale.
        seeds: Seed of each image.
    """

    bits: Sequence[Bool[Tensor, "1 _ d"]]
    source: Sequence[Float[Tensor, "1 _ d 2"]]
    params: Sequence[ScaleParams]
    seeds: Sequence[int]

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        guided, bits = logits.guided(), self.bits[k]
        before, after = (probability(values, self.params[k]) for values in (self.source[k], guided))
        noise = batch_noise(self.seeds, k, guided.shape[1:3], guided.device)
        inverted = torch.where(bits, noise * before, before + noise * (1 - before))
        return force_bits(guided, inverted < after, torch.ones_like(inverted, dtype=torch.bool))

    def image(self, index: int) -> "Inversion":
        return replace(self, seeds=self.seeds[index : index + 1])


@dataclass(frozen=True)
class BitTest:
    """Draws a bit anew if the target prompt makes its value less probable by more than a threshold, else keeps it.

    Attributes:
        bits, source, params: As for `Inversion`.
        threshold: Fall of the probability that is tolerated, from 0 to 1.
    """

    bits: Sequence[Bool[Tensor, "1 _ d"]]
    source: Sequence[Float[Tensor, "1 _ d 2"]]
    params: Sequence[ScaleParams]
    threshold: float

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        guided, bits = logits.guided(), self.bits[k]
        before, after = (probability(values, self.params[k]) for values in (self.source[k], guided))
        fall = torch.where(bits, before - after, after - before)
        return force_bits(guided, bits.expand_as(fall), fall <= self.threshold)

    def image(self, index: int) -> "BitTest":
        return self


@dataclass(frozen=True)
class Difference:
    """Gives the source's bits a probability, shifts it by the difference of the two prompts', and takes the likelier.

    The first reference is the source prompt.

    Attributes:
        bits, params: As for `Inversion`.
        confidence: Probability of the source's own bits, above 0.5.
    """

    bits: Sequence[Bool[Tensor, "1 _ d"]]
    params: Sequence[ScaleParams]
    confidence: float

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        guided, bits = logits.guided(), self.bits[k]
        after, before = (
            probability(values, self.params[k]) for values in (guided, logits.guided(logits.references[0]))
        )
        own = torch.where(bits, self.confidence, 1 - self.confidence)
        return force_bits(guided, own + (after - before) > 0.5, torch.ones_like(after, dtype=torch.bool))

    def image(self, index: int) -> "Difference":
        return self


@dataclass(frozen=True)
class Tilt:
    """Pushes the guided log-odds away from the source prompt's within the gate, inside a trust region.

    The first reference is the source prompt. The push falls linearly to 0 at the last scale.

    Attributes:
        gates: Gate of every scale as tokens, `(1, l, d)`.
        push: Strength of the push at the first scale.
        trust: Most nats between a bit's tilted and its guided distribution.
    """

    gates: Sequence[Float[Tensor, "1 _ d"]]
    push: float
    trust: float

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        guided = margins(logits.guided())
        strength = self.push * (1 - k / max(1, len(self.gates) - 1))
        away = margins(logits.conditional) - margins(logits.references[0])
        return from_margins(within_trust(guided, guided + strength * self.gates[k] * away, self.trust))

    def image(self, index: int) -> "Tilt":
        return self


def within_trust(guided: Float[Tensor, "*n"], wanted: Float[Tensor, "*n"], trust: float) -> Float[Tensor, "*n"]:
    """Move each bit's log-odds towards the wanted ones, as far as its trust region allows.

    Args:
        guided: Log-odds to start from.
        wanted: Log-odds to move to.
        trust: Largest Kullback-Leibler divergence in nats of the result from `guided`, for each bit.
    """
    change = (wanted - guided).clamp(-_MAX_CHANGE, _MAX_CHANGE)
    low, high = torch.zeros_like(change), torch.ones_like(change)
    inside = divergence(guided + change, guided) <= trust
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = divergence(guided + middle * change, guided) <= trust
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return guided + torch.where(inside, 1.0, low) * change


def divergence(log_odds: Float[Tensor, "*n"], other: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Compute the Kullback-Leibler divergence in nats of one bit's distribution from another, both by log-odds."""
    p = torch.sigmoid(log_odds)
    softplus = torch.nn.functional.softplus
    return p * (log_odds - other) - softplus(log_odds) + softplus(other)


def probability(logits: Float[Tensor, "b l d 2"], params: ScaleParams) -> Float[Tensor, "b l d"]:
    """Compute the probability of a 1 as it is drawn, but never quite 0 or 1.

    Args:
        logits: Guided logits of a scale.
        params: Settings of the scale.
    """
    probability = bit_probability(logits, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p)
    return probability.clamp(_LEAST, 1 - _LEAST)
