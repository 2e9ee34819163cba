"""Losses of tokenizer training. Each is a pure function; the training step adds them up."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bitvar.pyramid import ScaleStep

NUM_POOLINGS: Final = 4


def reconstruction_loss(
    reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
) -> Float[Tensor, ""]:
    """L1 + L2 of images in [-1, 1]."""
    return F.l1_loss(reconstruction, images) + F.mse_loss(reconstruction, images)


def pooled_errors(error: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Mean absolute error of each image averaged over squares of 2, 4, 8 and 16 pixels, as far as it holds such
    squares, added up. Noise counts for little, tints and mottles for all that they are."""
    total = error.new_zeros(len(error))
    for _ in range(NUM_POOLINGS):
        if min(error.shape[-2:]) < 2:
            break
        error = F.avg_pool2d(error, 2)
        total = total + error.abs().mean(dim=(1, 2, 3))
    return total


def multiscale_loss(reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]) -> Float[Tensor, ""]:
    """L1 of images averaged over squares of 2, 4, 8 and 16 pixels, as far as they hold such squares, added up.

    Tints and mottles weigh little in a mean over pixels, whose noise they hide in; an eye sees them first.
    """
    return pooled_errors(reconstruction - images).mean()


class EntropyTerms(NamedTuple):
    """Of the bits of one scale, in fractions of ln 2.

    Attributes:
        per_sample: mean entropy of a bit: 0 when every bit is certain.
        of_mean: entropy of the mean bit: 1 when every bit is used evenly over the batch.
    """

    per_sample: Tensor
    of_mean: Tensor


def bit_entropy(residual: Float[Tensor, "b d h w"], *, inverse_temperature: float = 1.0) -> EntropyTerms:
    """BSQ's factorised entropy (Zhao et al., arXiv 2406.07548): O(d), since the bits are independent given z."""
    bits = residual.shape[1]
    logits = 4 * F.normalize(residual.float(), dim=1) * inverse_temperature * bits**-0.5
    mean = torch.sigmoid(logits).mean(dim=(0, 2, 3)).clamp(1e-6, 1 - 1e-6)
    return EntropyTerms(_entropy_of_logits(logits).mean(), _entropy_of_logits(torch.logit(mean)).mean())


def entropy_penalty(steps: Sequence[ScaleStep], *, inverse_temperature: float = 1.0) -> Float[Tensor, ""]:
    """Mean over the scales of per-sample entropy minus entropy of the mean: certain bits, evenly used."""
    terms = [bit_entropy(step.residual, inverse_temperature=inverse_temperature) for step in steps]
    return torch.stack([term.per_sample - term.of_mean for term in terms]).mean()


def commitment_loss(features: Float[Tensor, "b d h w"], latent: Float[Tensor, "b d h w"]) -> Float[Tensor, ""]:
    """Pulls the encoder's features towards what their bits can say; without it their length is unbounded."""
    return F.mse_loss(features, latent.detach())


def discriminator_loss(real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Hinge loss of the patch discriminator."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """What the decoder pays for patches that look made up."""
    return -fake.mean()


def adaptive_weight(
    seen: Float[Tensor, ""], generator: Float[Tensor, ""], layer: Tensor, *, largest: float = 1e4
) -> Float[Tensor, ""]:
    """How much longer one loss's gradient is than the generator's, at one layer (Esser et al., arXiv 2012.09841).

    Args:
        seen: of the reconstruction.
        generator: of the adversary.
        layer: a parameter that both depend on.
        largest: the weight is never more.
    """
    (of_seen,) = torch.autograd.grad(seen, layer, retain_graph=True)
    (of_generator,) = torch.autograd.grad(generator, layer, retain_graph=True)
    return (of_seen.norm() / (of_generator.norm() + 1e-4)).clamp(0, largest).detach()


def binary_entropy(probability: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Entropy in bits of bits that are 1 so often: 1 for a half, 0 for never or always."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def dead_share(usage: Float[Tensor, " d"], *, least: float = 0.01) -> float:
    """The share of bits that say next to nothing: set, or clear, in less than `least` of the cells."""
    return ((usage < least) | (usage > 1 - least)).float().mean().item()


def _entropy_of_logits(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Entropy in bits of a bit whose log-odds these are; its gradient stays finite however certain the bit is."""
    return (F.softplus(logits) - logits * torch.sigmoid(logits)) / math.log(2)
