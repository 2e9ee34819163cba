"""The convolutional encoder and decoder. This module knows nothing of scales or bits."""

from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Conv2d
from bitvar.nn.norms import GroupNorm, PixelNorm
from bitvar.tokenizer.config import TokenizerConfig


def make_norm(width: int, config: TokenizerConfig) -> nn.Module:
    """Build the configured norm for `width` channels."""
    return PixelNorm(width) if config.norm == "pixel" else GroupNorm(width, config.norm_groups)


class ResidualBlock(nn.Module):
    """Norm, SiLU and 3x3 convolution, twice, with a shortcut (a 1x1 convolution where the width changes)."""

    def __init__(self, inputs: int, outputs: int, config: TokenizerConfig) -> None:
        super().__init__()
        self.norm1 = make_norm(inputs, config)
        self.conv1 = Conv2d(inputs, outputs)
        self.norm2 = make_norm(outputs, config)
        self.conv2 = Conv2d(outputs, outputs)
        self.shortcut = Conv2d(inputs, outputs, kernel=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.shortcut(x) + hidden


class Downsample(nn.Module):
    """A zero pad of one pixel at the right and the bottom, then a 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, stride=2, padding=0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class UpsamplingKernel(Protocol):
    """Another way to compute `Upsample` in inference, prepared from its weights and kept beside them."""

    def __call__(
        self, x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c c 3 3"], bias: Float[Tensor, " c"]
    ) -> Float[Tensor, "b c h2 w2"]:
        """Compute the convolution of the upsampled `x`, in the dtype of `x`."""
        ...


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution.

    Attributes:
        kernel: How the layer is computed in inference, set from outside (`bitvar.runtime`); None for the plain way.
    """

    kernel: UpsamplingKernel | None = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.kernel is not None and not torch.is_grad_enabled():
            return self.kernel(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """The residual blocks at one resolution, and the resize to the next."""

    def __init__(self, blocks: nn.Sequential, resize: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.resize = resize

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return self.resize(self.blocks(x))


class Encoder(nn.Module):
    """The network from an image to features, `stride` times smaller."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels = config.channels
        self.pixel_patch, self.stride = config.pixel_patch, config.stride
        self.conv_in = Conv2d(config.patch_channels, channels[0])
        self.levels = nn.ModuleList()
        width = channels[0]
        for level, outputs in enumerate(channels):
            blocks = _blocks(width, outputs, config.res_blocks, config)
            resize = Downsample(outputs) if level < len(channels) - 1 else nn.Identity()
            self.levels.append(Level(blocks, resize))
            width = outputs
        self.middle = _blocks(width, width, 2, config)
        self.norm_out = make_norm(width, config)
        self.conv_out = Conv2d(width, config.bits)
        self.skip = _skip(config.cell_channels, config.bits, config)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        x = self.conv_in(F.pixel_unshuffle(images, self.pixel_patch))
        for level in self.levels:
            x = level(x)
        features = self.conv_out(F.silu(self.norm_out(self.middle(x))))
        return features if self.skip is None else features + self.skip(F.pixel_unshuffle(images, self.stride))


class Decoder(nn.Module):
    """The network from a latent to an image. Its levels run from the coarsest to the finest."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels = config.channels
        width = channels[-1]
        self.pixel_patch, self.stride = config.pixel_patch, config.stride
        self.conv_in = Conv2d(config.bits, width)
        self.middle = _blocks(width, width, 2, config)
        self.levels = nn.ModuleList()
        for level, outputs in enumerate(reversed(channels)):
            blocks = _blocks(width, outputs, config.res_blocks + 1, config)
            resize = Upsample(outputs) if level < len(channels) - 1 else nn.Identity()
            self.levels.append(Level(blocks, resize))
            width = outputs
        self.norm_out = make_norm(width, config)
        self.conv_out = Conv2d(width, config.patch_channels)
        self.skip = _skip(config.bits, config.cell_channels, config)

    def forward(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        x = self.middle(self.conv_in(latent))
        for level in self.levels:
            x = level(x)
        image = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.pixel_patch)
        return image if self.skip is None else image + F.pixel_shuffle(self.skip(latent), self.stride)


def _skip(inputs: int, outputs: int, config: TokenizerConfig) -> Conv2d | None:
    return Conv2d(inputs, outputs, kernel=1) if config.linear_skip else None


def _blocks(inputs: int, outputs: int, count: int, config: TokenizerConfig) -> nn.Sequential:
    widths = [inputs] + [outputs] * count
    return nn.Sequential(*(ResidualBlock(i, o, config) for i, o in pairwise(widths)))
