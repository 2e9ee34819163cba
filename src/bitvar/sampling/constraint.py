"""The one hook between drawing bits and adding them to the latent: prefixes, and every kind of edit.

Knows bits and latents, not the model that drew them.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from bitvar import arguments
from bitvar.errors import UsageError


@runtime_checkable
class BitConstraint(Protocol):
    """Decides what becomes of the bits that were drawn at each scale."""

    def needs_draw(self, k: int) -> bool:
        """Whether scale `k` has to be drawn. One that isn't costs no logits where it is the last."""
        ...

    def apply(
        self, k: int, drawn: Bool[Tensor, "b d h w"] | None, latent: Float[Tensor, "b d H W"]
    ) -> Bool[Tensor, "b d h w"]:
        """Choose the bits of scale `k`.

        Args:
            k: Index of the scale.
            drawn: Bits that the model drew, in tokenizer cells; None where the scale needed no draw.
            latent: Sum of the coarser scales, on the last scale's grid.
        """
        ...

    def image(self, index: int) -> "BitConstraint":
        """The constraint on one image of the batch."""
        ...


class PrefixBits:
    """Fixes the first scales to given bits; the model draws the rest.

    Args:
        bits: Boolean bits of the first scales, coarse to fine, in tokenizer cells: `(d, h_k, w_k)` for all images
            alike, or `(b, d, h_k, w_k)` for each image.
    """

    def __init__(self, bits: Sequence[Tensor]) -> None:
        if not isinstance(bits, Sequence) or not all(isinstance(s, Tensor) and s.ndim in (3, 4) for s in bits):
            why = f"got {arguments.shown(bits)}"
            raise UsageError("PrefixBits takes the bits of each scale.", why, "give a list of tensors (d, h, w)")
        self.bits = tuple(scale if scale.ndim == 4 else scale[None] for scale in bits)

    def needs_draw(self, k: int) -> bool:
        return k >= len(self.bits)

    def apply(
        self, k: int, drawn: Bool[Tensor, "b d h w"] | None, latent: Float[Tensor, "b d H W"]
    ) -> Bool[Tensor, "b d h w"]:
        if k >= len(self.bits):
            assert drawn is not None, "scales after the prefix are drawn"
            return drawn
        return self.bits[k].to(latent.device).expand(len(latent), -1, -1, -1)

    def image(self, index: int) -> "PrefixBits":
        return PrefixBits([scale if len(scale) == 1 else scale[index : index + 1] for scale in self.bits])
