"""The image tokenizer: images to a pyramid of bits, and a latent back to an image."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bitvar import pyramid
from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.scales import Grid, code_norms_of
from bitvar.tokenizer.autoencoder import Decoder, Encoder
from bitvar.tokenizer.config import TokenizerConfig


class InfinityTokenizer(nn.Module):
    """Encoder, residual pyramid of bits, decoder.

    Its parameters' dtype is the dtype it computes in; the pyramid is fp32.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.conv_in.weight.device

    @property
    def levels(self) -> list[nn.Module]:
        """The encoder's and the decoder's: what is compiled, or computed again, each by itself."""
        return [*self.encoder.levels, *self.decoder.levels]

    def features(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """Encode images in [-1, 1] to fp32 features.

        Raises:
            UsageError: when the sides are no multiples of the stride.
            ComputationError: when they are not finite; training, whose losses are watched, goes on.
        """
        height, width = images.shape[-2:]
        if height % self.config.stride or width % self.config.stride:
            raise UsageError(
                f"The tokenizer can't take an image of {width}x{height} pixels.",
                f"both sides must be multiples of its stride, {self.config.stride}",
                "resize or crop the image first",
            )
        features = self.encoder(images.to(self.dtype))
        if not features.requires_grad:
            require_finite(features, "the tokenizer's features")
        return features.float()

    def encode(
        self, images: Float[Tensor, "b c H W"], grids: Sequence[Grid]
    ) -> tuple[list[Bool[Tensor, "b d _ _"]], Float[Tensor, "b d h w"]]:
        """Images in [-1, 1] to the bits of every scale, and the latent they add up to.

        Args:
            images: sides are the last grid times the stride.
            grids: cells of each scale, coarse to fine (`ScaleSchedule.latent_grids`).
        """
        steps = list(self.encode_scales(self.features(images), grids))
        return [step.bits for step in steps], steps[-1].latent

    def encode_scales(self, features: Float[Tensor, "b d h w"], grids: Sequence[Grid]) -> Iterator[pyramid.ScaleStep]:
        """Features to bits, scale by scale, as `pyramid.encode`. `grids` are all of a schedule's.

        Raises:
            ComputationError: when they are not finite: their signs would be bits like any others.
        """
        if not features.requires_grad:
            require_finite(features, "the features to make bits of")
        return pyramid.encode(features, grids, code_norms_of(self.config.code_norms, len(grids)))

    def decode_latent(self, bits: Sequence[Bool[Tensor, "b d _ _"]], grids: Sequence[Grid]) -> Float[Tensor, "b d h w"]:
        """Sum the codes of every scale, or of the first ones only, as `pyramid.decode_latent`. `grids` as above."""
        return pyramid.decode_latent(bits, grids[-1], code_norms_of(self.config.code_norms, len(grids)))

    def decode(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """A latent, whole or of the first scales only, to fp32 images in [-1, 1].

        Raises:
            ComputationError: when pixels are not finite.
        """
        pixels = self.decoder(latent.to(self.dtype))
        require_finite(pixels, "the pixels that the tokenizer decoded")
        return pixels.float().clamp(-1, 1)

    def reconstruct(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """`decode` without the clamp, which would stop gradients in training."""
        return self.decoder(latent.to(self.dtype)).float()
