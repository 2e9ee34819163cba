"""Linear layers with their weights packed once in the layout of the processor's matrix kernels (oneDNN).

A plain linear layer lays its weights out anew at every call, which takes most of the time of small scales. The tanh
GELU behind a layer is computed while its output is still in the processor's cache. Only the order of summation and the
evaluation of the GELU differ from the plain layer's.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Linear, project
from bitvar.runtime.optimization import LayerOptimization
from bitvar.runtime.prepared import Prepared


class PackedLinear(LayerOptimization):
    """Packs the weights of the transformer's linear layers. Needs memory for a second copy of them."""

    name: ClassVar[str] = "packed"
    exact: ClassVar[bool] = True
    copies_weights: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @staticmethod
    def available() -> bool:
        names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
        return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)

    def layers(self) -> Iterator[nn.Module]:
        return (module for module in self.transformer.modules() if isinstance(module, Linear))

    def new_kernel(self) -> "PackedKernel":
        return PackedKernel()


class PackedKernel:
    """A `LinearKernel` with packed weights. Where the processor can't pack the dtype, it computes the plain layer."""

    def __init__(self) -> None:
        self._packed = Prepared(_pack)

    def __call__(
        self, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, gelu: bool
    ) -> Float[Tensor, "*n o"]:
        bias = None if bias is None else bias.to(x.dtype)
        if not _packable(x):
            y = project(x, weight.to(x.dtype), bias)
            return F.gelu(y, approximate="tanh") if gelu else y
        packed = self._packed.of(weight, x.dtype)
        after, algorithm = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], algorithm)


def _packable(x: Tensor) -> bool:
    supported = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return supported and x.device.type == "cpu"


def _pack(weight: Float[Tensor, "o i"]) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)
