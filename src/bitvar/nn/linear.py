"""Layers that compute in the dtype of their input.

The first tensor of a model decides the precision: weights are cast to the dtype of the activations. Thus fp32 master
weights train in bf16, and the head stays fp32 in a bf16 model, without an autocast context.
"""

from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MIN_TOKENS_FOR_CONVOLUTION = 16


def project(
    x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*n o"]:
    """Compute `x W^T + b` by `F.linear`, or by a 1x1 convolution for fp32 inference on a CPU.

    The two differ only in the order of summation. PyTorch's fp32 matrix product reaches half the speed of its
    convolution on processors that its BLAS has no kernels for (docs/performance.md). The layouts agree, so nothing is
    copied.
    """
    plain = x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled()
    if plain or x.ndim != 3 or x.shape[1] < MIN_TOKENS_FOR_CONVOLUTION:
        return F.linear(x, weight, bias)
    return F.conv2d(x.transpose(1, 2)[..., None], weight[:, :, None, None], bias)[..., 0].transpose(1, 2)


class LinearKernel(Protocol):
    """Another way to compute a linear layer in inference, prepared from its weights and kept beside them."""

    def __call__(
        self, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, gelu: bool
    ) -> Float[Tensor, "*n o"]:
        """Compute `x W^T + b` in the dtype of `x`, or the tanh GELU of it."""
        ...


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input. Subclasses `nn.Linear`, so that adapters recognise it.

    Attributes:
        kernel: How the layer is computed in inference, set from outside (`bitvar.runtime`); None for `project`.
    """

    weight: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]
    kernel: LinearKernel | None = None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Draw weights of variance 1 / inputs and zero the bias."""
        nn.init.trunc_normal_(self.weight, std=self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.kernel is not None and not torch.is_grad_enabled():
            return self.kernel(x, self.weight, self.bias, gelu=False)
        return project(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, bias={self.bias is not None}"


def linear_gelu(layer: nn.Module, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
    """Compute the tanh GELU of a linear layer's output, in one kernel where the layer has one.

    An adapted layer adds to its output before the GELU, so it never counts as one with a kernel.
    """
    if isinstance(layer, Linear) and layer.kernel is not None and not torch.is_grad_enabled():
        return layer.kernel(x, layer.weight, layer.bias, gelu=True)
    return F.gelu(layer(x), approximate="tanh")


class Conv2d(nn.Module):
    """A convolution that computes in the dtype of its input, with "same" padding by default."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel // 2 if padding is None else padding
        reference = nn.Conv2d(inputs, outputs, kernel)  # PyTorch's own initialisation
        self.weight = nn.Parameter(reference.weight.detach())
        assert reference.bias is not None
        self.bias = nn.Parameter(reference.bias.detach())

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs} -> {outputs}, kernel={kernel}, stride={self.stride}"


M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """Lay out a module's convolutions channels-last, in place: same values, 1.1 to 1.2 times faster on CPUs."""
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
