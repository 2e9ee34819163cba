"""Linear layers in 8-bit floating point: weights and activations are rounded to e4m3, with one scale a row.

Products of e4m3 numbers, summed in fp32, run at twice the rate of bf16 on GPUs from Hopper on. Small scales gain nothing, so
they stay in bf16, and so does the second layer of the feed-forward, whose inputs have outliers of hundreds of times
their median.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Linear

LARGEST: Final = 448.0
"""Largest number of e4m3."""

MIN_TOKENS: Final = 400
"""Tokens of a scale from which its products run in e4m3: a grid of 20 x 20."""

LAYERS: Final = frozenset({"qkv", "q", "proj", "fc1"})
"""Names of the layers of a block that run in e4m3. The text's projection has few tokens, and `fc2` has outliers."""


class Rows(NamedTuple):
    """A matrix rounded to e4m3 row by row.

    Attributes:
        values: Tensor of shape `(n, i)` in e4m3.
        scale: Tensor of shape `(n, 1)` in fp32, which the values are to be multiplied by.
    """

    values: Tensor
    scale: Tensor


Product: TypeAlias = Callable[[Rows, Rows, Tensor | None, torch.dtype], Tensor]
"""Computes `x W^T + b` of two rounded matrices, a bias and the dtype of the result."""


def round_rows(x: Float[Tensor, "n i"]) -> Rows:
    """Round a matrix to e4m3 so that the largest value of each row becomes the largest number of e4m3."""
    largest = x.float().abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0) / LARGEST
    return Rows((x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale)


def fp8_product(x: Rows, weight: Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply on the tensor cores of a GPU that has them for e4m3."""
    return torch._scaled_mm(
        x.values, weight.values.t(), scale_a=x.scale, scale_b=weight.scale.t(), bias=bias, out_dtype=dtype
    )


def emulated_product(x: Rows, weight: Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Compute the same in fp32 on any device: the reference of `fp8_product`."""
    product = (x.values.float() @ weight.values.float().t()) * x.scale * weight.scale.t()
    return (product if bias is None else product + bias.float()).to(dtype)


class Fp8Forward:
    """The forward pass of a linear layer in e4m3; in the layer's own precision for small scales.

    Args:
        layer: Layer whose weight is rounded. It is not changed.
        product: How rounded matrices are multiplied.
        rounding: How activations are rounded, such as a compiled `round_rows`.
    """

    def __init__(self, layer: Linear, product: Product, rounding: Callable[[Tensor], Rows] = round_rows) -> None:
        self._layer, self._product, self._rounding = layer, product, rounding
        self._weight = round_rows(layer.weight)

    def __call__(self, x: Float[Tensor, "*b l i"]) -> Float[Tensor, "*b l o"]:
        if x.shape[-2] < MIN_TOKENS or x.dtype != torch.bfloat16:
            return Linear.forward(self._layer, x)
        bias = None if self._layer.bias is None else self._layer.bias.to(x.dtype)
        product = self._product(self._rounding(x.flatten(0, -2)), self._weight, bias, x.dtype)
        return product.unflatten(0, x.shape[:-1])


def fp8_layers(blocks: nn.Module) -> list[Linear]:
    """List the layers of a transformer's blocks that run in e4m3, those inside of adapters included."""
    return [
        module
        for name, module in blocks.named_modules()
        if isinstance(module, Linear) and LAYERS & set(name.split("."))
    ]
