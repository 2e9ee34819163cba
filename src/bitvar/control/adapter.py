"""The control adapter: a small convolutional encoder of a map, and a projection to the tokens of each scale.

Its output is added to the transformer's input tokens. The projections start at zero, so that an untrained adapter
changes nothing. The idea is ControlNet's (Zhang et al., arXiv 2302.05543), with a small encoder in place of a copy of
the base model. This module knows nothing about sampling or training.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.control.config import ControlConfig
from bitvar.nn.linear import Conv2d, Linear
from bitvar.nn.norms import LayerNorm
from bitvar.scales import ScaleSchedule


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
        before = 1
        for channels in config.channels:
            levels += [Conv2d(before, channels, stride=2), _Residual(channels)]
            before = channels
        self.encoder = nn.Sequential(*levels, *(_Residual(before) for _ in range(config.depth)))
        self.norm = LayerNorm(before)
        self.fc = Linear(before, config.hidden)
        self.scale_projections = nn.Parameter(torch.zeros(config.scales, config.hidden, config.width))

    def forward(self, maps: Float[Tensor, "b 1 H W"], schedule: ScaleSchedule) -> list[Float[Tensor, "b _ c"]]:
        """Compute what to add to the tokens of each scale.

        Args:
            maps: Maps in [0, 1], 1 on a line, at the size of the schedule's images in pixels.
            schedule: Schedule of at most `config.scales` scales.
        """
        side = self.config.pixels_per_token
        height, width = schedule[-1]
        assert maps.shape[-2:] == (height * side, width * side), "a map has the size of the image"
        features = self.encoder(2 * maps - 1)
        additions = []
        for k, grid in enumerate(schedule):
            pooled = rearrange(F.adaptive_avg_pool2d(features, grid), "b f h w -> b (h w) f")
            hidden = F.silu(self.fc(self.norm(pooled)))
            additions.append(hidden @ self.scale_projections[k].to(hidden.dtype))
        return additions

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the encoder's weights with variance 1 / inputs; the second convolutions and the projections are zero."""
        for name, module in self.named_modules():
            if isinstance(module, Conv2d | Linear):
                inputs = module.weight[0].numel()
                module.weight.normal_(0, inputs**-0.5, generator=generator)
                if name.endswith("conv2"):
                    module.weight.zero_()
                module.bias.zero_()
        self.scale_projections.zero_()
