"""Losses of tokenizer training. Each is a pure function; the training step sums them."""

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
    """Compute the sum of the L1 and L2 losses of images in [-1, 1]."""
    return F.l1_loss(reconstruction, images) + F.mse_loss(reconstruction, images)


def pooled_errors(error: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Sum each image's mean absolute errors after averaging over blocks of 2, 4, 8 and 16 pixels.

    Block sizes that exceed the image are left out. Averaging removes noise and keeps colour casts and blotches.
    """
    total = error.new_zeros(len(error))
    for _ in range(NUM_POOLINGS):
        if min(error.shape[-2:]) < 2:
            break
        error = F.avg_pool2d(error, 2)
        total = total + error.abs().mean(dim=(1, 2, 3))
    return total


def multiscale_loss(reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]) -> Float[Tensor, ""]:
    """Compute `pooled_errors` of a batch, averaged over its images.

    Colour casts and blotches weigh little in a mean over pixels, where noise dominates, but are conspicuous to viewers.
    """
    return pooled_errors(reconstruction - images).mean()


class EntropyTerms(NamedTuple):
    """Entropies of the bits at one scale, in fractions of ln 2.

    Attributes:
        per_sample: Mean entropy of a bit: 0 when every bit is certain.
        of_mean: Entropy of the mean bit: 1 when every bit is used evenly over the batch.
    """

    per_sample: Tensor
    of_mean: Tensor


def bit_entropy(residual: Float[Tensor, "b d h w"], *, inverse_temperature: float = 1.0) -> EntropyTerms:
    """Compute the factorised entropy of BSQ (Zhao et al., arXiv 2406.07548): O(d), as bits are independent given z."""
    bits = residual.shape[1]
    logits = 4 * F.normalize(residual.float(), dim=1) * inverse_temperature * bits**-0.5
    mean = torch.sigmoid(logits).mean(dim=(0, 2, 3)).clamp(1e-6, 1 - 1e-6)
    return EntropyTerms(_entropy_of_logits(logits).mean(), _entropy_of_logits(torch.logit(mean)).mean())


def entropy_penalty(steps: Sequence[ScaleStep], *, inverse_temperature: float = 1.0) -> Float[Tensor, ""]:
    """Average per-sample entropy minus entropy of the mean over the scales: low for certain, evenly used bits."""
    terms = [bit_entropy(step.residual, inverse_temperature=inverse_temperature) for step in steps]
    return torch.stack([term.per_sample - term.of_mean for term in terms]).mean()


def commitment_loss(features: Float[Tensor, "b d h w"], latent: Float[Tensor, "b d h w"]) -> Float[Tensor, ""]:
    """Pull the encoder's features towards the codes of their bits; otherwise their norm would be unbounded."""
    return F.mse_loss(features, latent.detach())


def discriminator_loss(real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Compute the hinge loss of the patch discriminator."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Compute the decoder's penalty for patches that the discriminator takes for reconstructed ones."""
    return -fake.mean()


def adaptive_weight(
    reconstruction: Float[Tensor, ""], generator: Float[Tensor, ""], layer: Tensor, *, max_weight: float = 1e4
) -> Float[Tensor, ""]:
    """Compute the ratio of two losses' gradient norms at one layer (Esser et al., arXiv 2012.09841).

    Args:
        reconstruction: Reconstruction loss.
        generator: Adversarial loss of the decoder.
        layer: Parameter that both losses depend on.
        max_weight: Upper bound on the ratio.
    """
    (reconstruction_gradient,) = torch.autograd.grad(reconstruction, layer, retain_graph=True)
    (generator_gradient,) = torch.autograd.grad(generator, layer, retain_graph=True)
    return (reconstruction_gradient.norm() / (generator_gradient.norm() + 1e-4)).clamp(0, max_weight).detach()


def _entropy_of_logits(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Compute the entropy, in bits, of bits with these log-odds; its gradient is finite even for certain bits."""
    return (F.softplus(logits) - logits * torch.sigmoid(logits)) / math.log(2)
