"""A patch discriminator (Isola et al., arXiv 1611.07004), used only to train tokenizers."""

from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Conv2d


class PatchDiscriminator(nn.Module):
    """A network that scores overlapping patches: high for real ones, low for reconstructed ones."""

    def __init__(self, *, channels: int = 3, width: int = 32, num_levels: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(channels, width, kernel=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(num_levels):
            inputs, outputs = width * 2**level, width * 2 ** (level + 1)
            layers += [
                Conv2d(inputs, outputs, kernel=4, stride=2, padding=1),
                nn.GroupNorm(8, outputs),
                nn.LeakyReLU(0.2),
            ]
        layers.append(Conv2d(width * 2**num_levels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 1 h w"]:
        return self.layers(images)
