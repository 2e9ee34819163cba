"""The convolutional encoder and decoder around the bits. Knows nothing of scales or of bits."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Conv2d
from bitvar.nn.norms import GroupNorm
from bitvar.tokenizer.config import TokenizerConfig


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 conv, twice, beside a shortcut (1x1 when the width changes)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(inputs, groups)
        self.conv1 = Conv2d(inputs, outputs)
        self.norm2 = GroupNorm(outputs, groups)
        self.conv2 = Conv2d(outputs, outputs)
        self.shortcut = Conv2d(inputs, outputs, kernel=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.shortcut(x) + hidden


class Downsample(nn.Module):
    """Zero-pad right and bottom by one, 3x3 conv, stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, stride=2, padding=0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, and the step to the next."""

    def __init__(self, blocks: nn.Sequential, resize: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.resize = resize

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return self.resize(self.blocks(x))


class Encoder(nn.Module):
    """Picture -> features, `stride` times smaller."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.norm_groups
        self.pixel_patch = config.pixel_patch
        self.conv_in = Conv2d(config.patch_channels, channels[0])
        self.levels = nn.ModuleList()
        width = channels[0]
        for level, outputs in enumerate(channels):
            blocks = _blocks(width, outputs, config.res_blocks, groups)
            resize = Downsample(outputs) if level < len(channels) - 1 else nn.Identity()
            self.levels.append(Level(blocks, resize))
            width = outputs
        self.middle = _blocks(width, width, 2, groups)
        self.norm_out = GroupNorm(width, groups)
        self.conv_out = Conv2d(width, config.bits)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        x = self.conv_in(F.pixel_unshuffle(images, self.pixel_patch))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Latent -> picture. Its levels run from the coarsest to the finest."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.norm_groups
        width = channels[-1]
        self.pixel_patch = config.pixel_patch
        self.conv_in = Conv2d(config.bits, width)
        self.middle = _blocks(width, width, 2, groups)
        self.levels = nn.ModuleList()
        for level, outputs in enumerate(reversed(channels)):
            blocks = _blocks(width, outputs, config.res_blocks + 1, groups)
            resize = Upsample(outputs) if level < len(channels) - 1 else nn.Identity()
            self.levels.append(Level(blocks, resize))
            width = outputs
        self.norm_out = GroupNorm(width, groups)
        self.conv_out = Conv2d(width, config.patch_channels)

    def forward(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        x = self.middle(self.conv_in(latent))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.pixel_patch)


def _blocks(inputs: int, outputs: int, count: int, groups: int) -> nn.Sequential:
    widths = [inputs] + [outputs] * count
    return nn.Sequential(*(ResidualBlock(i, o, groups) for i, o in pairwise(widths)))
