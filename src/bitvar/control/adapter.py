"""The control adapter: a small convolutional encoder of a map, and a projection to the tokens of each scale.

Its output is added to the transformer's input tokens, cell by cell: what a token decides depends on what the map shows
in each of its cells. The projections start at zero, so that an untrained adapter
changes nothing. The idea is ControlNet's (Zhang et al., arXiv 2302.05543), with a small encoder in place of a copy of
the base model. This module knows nothing about sampling or training.
"""

from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.bits import to_tokens
from bitvar.control.config import ControlConfig
from bitvar.nn.linear import Conv2d, Linear
from bitvar.nn.norms import LayerNorm
from bitvar.scales import ScaleSchedule

_INPUTS: Final = 3
"""Channels that the encoder sees: the map, and where a pixel is along rows and columns."""


class _Residual(nn.Module):
    """A residual block of two convolutions, normalised over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.conv1 = Conv2d(channels, channels)
        self.conv2 = Conv2d(channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        normed = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return x + self.conv2(F.silu(self.conv1(F.silu(normed))))


class ControlAdapter(nn.Module):
    """Encode a control map to additions to the input tokens of every scale.

    Args:
        config: Sizes of the adapter.
    """

    def __init__(self, config: ControlConfig) -> None:
        super().__init__()
        self.config = config
        levels: list[nn.Module] = []
        before = _INPUTS
        for channels in config.channels:
            levels += [Conv2d(before, channels, stride=2), _Residual(channels)]
            before = channels
        self.encoder = nn.Sequential(*levels, *(_Residual(before) for _ in range(config.depth)))
        inputs = before * config.patch_size**2
        self.norm = LayerNorm(inputs)
        self.fc = Linear(inputs, config.hidden)
        self.projections = nn.ModuleList(Linear(config.hidden, config.width, bias=False) for _ in range(config.scales))

    def forward(self, maps: Float[Tensor, "b 1 H W"], schedule: ScaleSchedule) -> list[Float[Tensor, "b _ c"]]:
        """Compute what to add to the tokens of each scale.

        Args:
            maps: Maps in [0, 1], 1 on a line, at the size of the schedule's images in pixels.
            schedule: Schedule of at most `config.scales` scales.
        """
        patch = self.config.patch_size
        side = self.config.pixels_per_cell * patch
        height, width = schedule[-1]
        assert maps.shape[-2:] == (height * side, width * side), "a map has the size of the image"
        features = self.encoder(torch.cat([2 * maps - 1, _positions(maps)], dim=1))
        additions = []
        grids = schedule.latent_grids(patch)
        for grid, projection in zip(grids, self.projections, strict=False):  # a schedule may have fewer scales
            pooled = to_tokens(F.adaptive_avg_pool2d(features, grid), patch)
            additions.append(projection(F.silu(self.fc(self.norm(pooled)))))
        return additions

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the encoder's weights with variance 2 / inputs; the second convolutions and the projections are zero."""
        for name, module in self.named_modules():
            if isinstance(module, Conv2d | Linear):
                inputs = module.weight[0].numel()
                module.weight.normal_(0, (2 / inputs) ** 0.5, generator=generator)
                if name.endswith("conv2") or name.startswith("projections"):
                    module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()


def _positions(maps: Float[Tensor, "b _ H W"]) -> Float[Tensor, "b 2 H W"]:
    """Return the row and the column of every pixel, from -1 to 1."""
    b, _, h, w = maps.shape
    rows, columns = (torch.linspace(-1, 1, n, device=maps.device, dtype=maps.dtype) for n in (h, w))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(b, -1, -1, -1)
