"""Quality of a tokenizer, scale by scale: how much is left to encode, and how evenly each scale uses its bits."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def residual_share(features: Float[Tensor, "b d h w"], latent: Float[Tensor, "b d h w"]) -> Float[Tensor, " b"]:
    """Return the norm of each image's residual as a share of the norm of its features.

    Args:
        features: Output of the encoder.
        latent: Latent decoded from the bits of the scales so far; zero before the first scale.
    """
    norm = torch.linalg.vector_norm(features, dim=(1, 2, 3)).clamp(min=1e-12)
    return torch.linalg.vector_norm(features - latent, dim=(1, 2, 3)) / norm


def count_set_bits(bits: Bool[Tensor, "b d h w"]) -> Float[Tensor, " d"]:
    """Count the cells of a batch in which each bit is set, in fp64 on the CPU."""
    return bits.sum(dim=(0, 2, 3)).double().cpu()


def count_cells(bits: Bool[Tensor, "b d h w"]) -> int:
    """Count the cells of a batch."""
    return bits.shape[0] * bits.shape[2] * bits.shape[3]


def binary_entropy(probability: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the entropy, in bits, of bits that are 1 with these probabilities: 1 for one half, 0 for 0 and 1."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def bit_entropy(usage: Float[Tensor, " d"]) -> float:
    """Return the mean entropy of a scale's bits: 1 if all are used evenly, 0 if none ever changes.

    Args:
        usage: Share of the cells in which each bit is set.
    """
    return binary_entropy(usage).mean().item()


def dead_share(usage: Float[Tensor, " d"], *, min_usage: float = 0.01) -> float:
    """Return the share of bits that carry almost no information.

    Args:
        usage: Share of the cells in which each bit is set.
        min_usage: A bit is dead if it is set, or clear, in a smaller share of the cells than this.
    """
    return ((usage < min_usage) | (usage > 1 - min_usage)).float().mean().item()
