"""The decoder's upsampling layers as one transposed convolution each, with four ninths of the multiplications.

A nearest-neighbour upsampling by 2 repeats each pixel, and the 3x3 convolution behind it reads some of the copies
with several taps: of every 3x3 window, only 2x2 pixels differ. Adding up the taps that read the same pixel leaves a 4x4
kernel of stride 2, of which each output pixel uses 2x2 taps. Only the order of summation differs.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.runtime.optimization import LayerOptimization
from bitvar.runtime.prepared import Prepared
from bitvar.tokenizer.autoencoder import Upsample


class FoldedUpsampling(LayerOptimization):
    """Folds the upsampling layers of the tokenizer's decoder."""

    name: ClassVar[str] = "folded"
    exact: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @staticmethod
    def available() -> bool:
        return True

    def layers(self) -> Iterator[nn.Module]:
        return (module for module in self.tokenizer.decoder.modules() if isinstance(module, Upsample))

    def new_kernel(self) -> "FoldedKernel":
        return FoldedKernel()


class FoldedKernel:
    """An `UpsamplingKernel` that computes a transposed convolution."""

    def __init__(self) -> None:
        self._folded = Prepared(fold)

    def __call__(
        self, x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c c 3 3"], bias: Float[Tensor, " c"]
    ) -> Float[Tensor, "b c h2 w2"]:
        return F.conv_transpose2d(x, self._folded.of(weight, x.dtype), bias.to(x.dtype), stride=2, padding=1)


def fold(weight: Float[Tensor, "o i 3 3"]) -> Float[Tensor, "i o 4 4"]:
    """Add up the taps of a 3x3 kernel that read copies of the same pixel, in fp32.

    Args:
        weight: Kernel of the convolution behind the upsampling.
    """
    folded = weight.float()
    for axis in (2, 3):
        first, second, third = folded.unbind(axis)
        folded = torch.stack([third, second + third, first + second, first], axis)
    return folded.transpose(0, 1).to(weight.dtype).contiguous(memory_format=torch.channels_last)
