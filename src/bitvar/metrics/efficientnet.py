"""EfficientNet-lite0 as a frozen feature network, with its weights in the package.

No generator in bitvar is trained on its features, so they stay independent for evaluation; training uses MobileNetV2.
"""

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.metrics.networks import read_weights

FOLDER: Final = Path(__file__).parents[1] / "pretrained" / "efficientnet_lite0"
SIDE: Final = 224
"""Side, in pixels, of the images that it was trained on."""

# (repeats, kernel, stride of the first block, expansion, output channels): table 1 of arXiv 1905.11946, for lite0
_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STAGE_CHANNELS: Final = tuple(stage[-1] for stage in _STAGES)
STAGE_STRIDES: Final = (2, 4, 8, 16, 16, 32, 32)
HEAD_CHANNELS: Final = 1280


class EfficientNet(nn.Module):
    """EfficientNet-lite0 (Tan & Le, arXiv 1905.11946; the lite variant), trained on ImageNet; without its classifier.

    Frozen, in fp32. Batch norms are folded into the convolutions, so training and evaluation mode are the same.
    Gradients flow to the images. Construction draws nothing from the global generator.

    Raises:
        WeightsError: if its file in the package is missing or altered.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.network = Network()
        tensors = {name: _channels_last(tensor.float()) for name, tensor in read_weights(FOLDER).items()}
        self.network.load_state_dict(tensors, assign=True)
        self.requires_grad_(False)

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the feature maps after each of the seven stages for images in [-1, 1] at their own size.

        Cells are `STAGE_STRIDES` pixels wide; the maps have `STAGE_CHANNELS` channels.
        """
        return self.network.stages(_normalized(images))

    def head(self, last: Float[Tensor, "b 320 h w"]) -> Float[Tensor, "b 1280 h w"]:
        """Turn the last stage's feature map into the one that the classifier would average."""
        return F.relu6(self.network.head(last))

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 1280"]:
        """Compute the features that the classifier would take, for images in [-1, 1] at their own size."""
        return self.head(self.stages(images)[-1]).mean(dim=(2, 3))


class SameConv(nn.Conv2d):
    """Convolution padded as in TensorFlow: the output has ceil(side / stride) cells a side; an odd pixel goes last."""

    def forward(self, input: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:  # noqa: A002 (torch's name)
        pads: list[int] = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads) if any(pads) else input)


class Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel, project, and add the input where shapes allow."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self.project = nn.Conv2d(inner, width, 1)
        self.adds = stride == 1 and channels == width

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(inner)))
        return x + y if self.adds else y


class Network(nn.Module):
    """The convolutions alone, for images normalised as the publisher does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, stride=2)
        channels = 32
        stages: list[nn.Module] = []
        for repeats, kernel, stride, expansion, width in _STAGES:
            blocks = []
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(Block(channels, width, kernel=kernel, stride=step, expansion=expansion))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)
        self.head = nn.Conv2d(channels, HEAD_CHANNELS, 1)

    def stages(self, x: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the feature maps after each stage."""
        x = F.relu6(self.stem(x))
        maps = []
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return maps


def _channels_last(tensor: Tensor) -> Tensor:
    """Store a kernel channels last, which takes two thirds of the time on a CPU."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _normalized(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Normalise images in [-1, 1] as the publisher does: (byte - 127) / 128."""
    return ((images.float() + 1) * 127.5 - 127) / 128
