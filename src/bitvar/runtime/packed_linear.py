"""Linear layers with their weights packed once in the layout of the processor's matrix kernels (oneDNN).

A plain linear layer re-lays its weights at every call, which takes most of the time of the small scales. The tanh GELU
after a layer is computed while its output is still in the processor's cache. The order of summation differs from the
plain layer's, nothing else.
"""

from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bitvar.nn.linear import Linear, project
from bitvar.runtime.optimization import Optimization
from bitvar.runtime.prepared import Prepared
from bitvar.sampling.decoder import ScaleDecoder

_ROWS: Final = 512
"""Rows that the layout is chosen for. It serves fewer rows as well."""


class PackedLinear(Optimization):
    """Packs the weights of the transformer's linear layers. Needs memory for a second copy of them."""

    name: ClassVar[str] = "packed"
    exact: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @staticmethod
    def available() -> bool:
        ops = torch.ops.mkldnn
        names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
        return torch.backends.mkldnn.is_available() and all(hasattr(ops, name) for name in names)

    def apply(self) -> None:
        for module in self.transformer.modules():
            if isinstance(module, Linear):
                module.kernel = _PackedKernel()

    def refresh(self) -> None:
        self.apply()

    def undo(self) -> None:
        for module in self.transformer.modules():
            if isinstance(module, Linear):
                module.kernel = None

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain


class _PackedKernel:
    """The kernel of one layer. Where the processor can't pack the dtype, it computes the plain layer."""

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
        after, kind = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, after, [], kind)


def _packable(x: Tensor) -> bool:
    ops = torch.ops.mkldnn
    supported = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())
    return supported and x.device.type == "cpu"


def _pack(weight: Float[Tensor, "o i"]) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
