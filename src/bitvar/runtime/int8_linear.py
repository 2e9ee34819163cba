"""Linear layers in 8-bit integers, quantised dynamically: lossy, chosen by name.

Each output channel of the weights has a scale of its own, from its largest value, and so has each token of the input,
computed at every call: neither other tokens nor other images influence it. Products are summed in int32.
"""

from collections.abc import Iterator
from typing import ClassVar, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from bitvar.runtime.optimization import LayerOptimization, block_layers
from bitvar.runtime.prepared import Prepared

_ZERO: Final = 128
"""Integer that stands for zero in the input: the kernels are fast for unsigned input and signed weights only."""

_LARGEST: Final = 127


class Int8Linear(LayerOptimization):
    """Computes the linear layers of the transformer's blocks in int8. Text, modulations and head stay as they are."""

    name: ClassVar[str] = "int8"
    exact: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @staticmethod
    def available() -> bool:
        """Without the processor's VNNI instructions, sums would saturate and gain nothing."""
        ops = hasattr(torch.ops.onednn, "qlinear_prepack") and hasattr(torch.ops.onednn, "qlinear_pointwise")
        return ops and torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()

    def layers(self) -> Iterator[nn.Module]:
        return block_layers(self.transformer)

    def new_kernel(self) -> "Int8Kernel":
        return Int8Kernel()


class _Quantised(NamedTuple):
    """Weights of one layer in the layout of the integer kernels, with the scale and the zero of each channel."""

    weight: Tensor
    scales: Tensor
    zeros: Tensor


class Int8Kernel:
    """A `LinearKernel` that computes in int8."""

    def __init__(self) -> None:
        self._quantised = Prepared(_quantise)

    def __call__(
        self, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, gelu: bool
    ) -> Float[Tensor, "*n o"]:
        prepared = self._quantised.of(weight, torch.float32)
        rows = x.reshape(-1, x.shape[-1]).float()
        scales = _scales(rows)
        codes = (rows / scales).round_().add_(_ZERO).to(torch.uint8)
        y = _multiply(codes, prepared) * scales
        if bias is not None:
            y += bias.float()
        y = y.to(x.dtype).unflatten(0, x.shape[:-1])
        return F.gelu(y, approximate="tanh") if gelu else y


def _scales(rows: Float[Tensor, "n i"]) -> Float[Tensor, "n 1"]:
    """Compute the step of each row; a row of zeros has any."""
    return rows.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny * _LARGEST).div_(_LARGEST)


def _multiply(codes: UInt8[Tensor, "n i"], prepared: _Quantised) -> Float[Tensor, "n o"]:
    """Multiply the codes less their zero with the weights, in steps of the input."""
    weight, scales, zeros = prepared
    return torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, _ZERO, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _quantise(weight: Float[Tensor, "o i"]) -> _Quantised:
    scales = _scales(weight)
    codes: Int8[Tensor, "o i"] = (weight / scales).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    return _Quantised(packed, scales.flatten(), torch.zeros(len(weight), dtype=torch.int32))
