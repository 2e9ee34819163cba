"""Linear layers in 8-bit floating point: weights and activations are rounded to e4m3, with one scale a row.

Products of e4m3 numbers, summed in fp32, run at twice the rate of bf16 on GPUs from Hopper on. Small scales gain
nothing, so they stay in bf16, and so does the second layer of the feed-forward, whose inputs have outliers of hundreds
of times their median.
"""

import functools
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bitvar.nn.linear import Linear, project
from bitvar.runtime.optimization import LayerOptimization
from bitvar.runtime.prepared import Prepared

LARGEST: Final = 448.0
"""Largest number of e4m3."""

_SMALLEST: Final = 1e-20
"""A row of smaller numbers counts as zeros."""

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
    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST) / LARGEST
    return Rows((x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale)


def fp8_product(x: Rows, weight: Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply on the tensor cores of a GPU that has them for e4m3."""
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        x.values, weight.values.t(), scale_a=x.scale, scale_b=weight.scale.t(), bias=bias, out_dtype=dtype
    )


def emulated_product(x: Rows, weight: Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Compute the same in fp32 on any device: the reference of `fp8_product`."""
    product = (x.values.float() @ weight.values.float().t()) * x.scale * weight.scale.t()
    return (product if bias is None else product + bias.float()).to(dtype)


class Fp8Kernel:
    """The kernel of one linear layer in e4m3. Small scales, and activations that aren't bf16, are computed as usual.

    Args:
        product: How rounded matrices are multiplied.
        rounding: How activations are rounded, such as a compiled `round_rows`.
    """

    def __init__(self, product: Product, rounding: Callable[[Tensor], Rows] = round_rows) -> None:
        self._product, self._rounding = product, rounding
        self._rounded = Prepared(round_rows)

    def __call__(
        self, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, gelu: bool
    ) -> Float[Tensor, "*n o"]:
        bias = None if bias is None else bias.to(x.dtype)
        if x.dtype != torch.bfloat16 or x.shape[-2] < MIN_TOKENS:
            y = project(x, weight.to(x.dtype), bias)
        else:
            rounded = self._rounded.of(weight, x.dtype)
            y = self._product(self._rounding(x.flatten(0, -2)), rounded, bias, x.dtype).unflatten(0, x.shape[:-1])
        return F.gelu(y, approximate="tanh") if gelu else y


class Fp8Linear(LayerOptimization):
    """Runs most linear layers of the transformer in e4m3 at the large scales. Needs memory for the rounded weights.

    On a CPU, where users can't choose it, products are emulated.
    """

    name: ClassVar[str] = "fp8"
    exact: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @staticmethod
    def available() -> bool:
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)

    def layers(self) -> Iterator[Linear]:
        """Yield the layers of `LAYERS`, those inside of adapters included."""
        for name, module in self.transformer.blocks.named_modules():
            if isinstance(module, Linear) and LAYERS & set(name.split(".")):
                yield module

    def new_kernel(self) -> Fp8Kernel:
        if self.transformer.device.type == "cuda":
            return Fp8Kernel(fp8_product, _round_in_one_kernel)
        return Fp8Kernel(emulated_product)


def _round_in_one_kernel(x: Float[Tensor, "n i"]) -> Rows:
    return _compiled_rounding()(x)


@functools.cache
def _compiled_rounding() -> Callable[[Tensor], Rows]:
    return torch.compile(round_rows)
