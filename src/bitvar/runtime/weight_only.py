"""Linear layers whose weights are kept in 8 or 4 bits and restored to the model's precision at every use: lossy.

They save memory, not time. Groups of consecutive weights of an output channel have a scale and a minimum of their own.
On a card, the original weights wait in the host's memory, from where `undo` brings them back; on a CPU they stay, and a
file that has the model's precision is only mapped, so that the system may drop its pages.
"""

import functools
import math
from collections.abc import Callable, Container, Iterator
from typing import ClassVar, Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.nn.linear import Linear, project
from bitvar.runtime.optimization import LayerOptimization, block_layers
from bitvar.runtime.prepared import Prepared

GROUP: Final = 64
"""Largest number of weights that share a scale and a minimum, which take 32 bits together."""


class GroupedWeights(NamedTuple):
    """A weight matrix as integers.

    Attributes:
        codes: Integers of shape `(o, groups, n)`, or `(o, groups, n / 2)` with two in a byte.
        scale, minimum: Tensors of shape `(o, groups, 1)` in fp16. A weight is its code times the scale plus the
            minimum.
        is_halved: Whether two codes share a byte.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor
    is_halved: bool

    @property
    def num_bytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes + self.minimum.nbytes


def group_weights(weight: Float[Tensor, "o i"], bits: int) -> GroupedWeights:
    """Round a weight matrix to integers, group by group.

    Args:
        weight: Weights, of which each row is split into equal groups of at most `GROUP`.
        bits: Bits of a code, 8 or 4. Groups of odd length take 8 bits a code in either case.
    """
    size = math.gcd(weight.shape[1], GROUP)
    groups = weight.float().unflatten(1, (-1, size))
    minimum = groups.amin(-1, keepdim=True).half()
    step = (groups.amax(-1, keepdim=True) - minimum.float()) / (2**bits - 1)
    scale = step.clamp(min=torch.finfo(torch.float16).tiny).half()
    codes = ((groups - minimum.float()) / scale.float()).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    is_halved = bits == 4 and size % 2 == 0
    if is_halved:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return GroupedWeights(codes, scale, minimum, is_halved)


def restore_weights(weights: GroupedWeights, dtype: torch.dtype) -> Float[Tensor, "o i"]:
    """Compute the weights that the integers stand for."""
    codes, scale, minimum, is_halved = weights
    if is_halved:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    return (codes * scale.float() + minimum.float()).flatten(1).to(dtype)


class WeightOnlyKernel:
    """A `LinearKernel` that restores its weights at every call.

    Args:
        bits: Bits of a code, 8 or 4.
        device: Device to compute on, where the integers are kept.
    """

    def __init__(self, bits: int, device: torch.device) -> None:
        self._bits, self.device = bits, device
        self._grouped = Prepared(functools.partial(_group_on, bits=bits, device=device))

    def __reduce__(self) -> tuple[type["WeightOnlyKernel"], tuple[int, torch.device]]:
        return WeightOnlyKernel, (self._bits, self.device)

    def prepare(self, weight: Float[Tensor, "o i"]) -> GroupedWeights:
        """Return the integers of weights as they are now, wherever these are."""
        return self._grouped.of(weight, weight.dtype)

    def __call__(
        self, x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, gelu: bool
    ) -> Float[Tensor, "*n o"]:
        restore = _compiled_restore() if x.device.type == "cuda" else restore_weights
        y = project(x, restore(self.prepare(weight), x.dtype), None if bias is None else bias.to(x.dtype))
        return F.gelu(y, approximate="tanh") if gelu else y


def _group_on(weight: Tensor, *, bits: int, device: torch.device) -> GroupedWeights:
    return group_weights(weight.to(device), bits)


@functools.cache
def _compiled_restore() -> Callable[[GroupedWeights, torch.dtype], Tensor]:
    return torch.compile(restore_weights, dynamic=False)


class _WeightOnly(LayerOptimization):
    """Keeps the weights of the blocks' linear layers as integers. Text, modulations and head stay as they are."""

    bits: ClassVar[int]
    exact: ClassVar[bool] = False
    takes_blocks_from_host: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @staticmethod
    def available() -> bool:
        return True

    def layers(self) -> Iterator[nn.Module]:
        return block_layers(self.transformer)

    def new_kernel(self) -> WeightOnlyKernel:
        return WeightOnlyKernel(self.bits, self.transformer.device)

    def apply(self) -> None:
        device = self.transformer.device
        self._kernels = {layer: kernel for layer, kernel in self._kernels.items() if _is_on(kernel, device)}
        super().apply()
        layers = [layer for layer in self.layers() if isinstance(layer, Linear)]
        if device.type == "cuda":
            self._leave_on_host({id(layer.weight) for layer in layers})
        for layer in layers:
            assert isinstance(layer.kernel, WeightOnlyKernel)
            layer.kernel.prepare(layer.weight)

    def undo(self) -> None:
        super().undo()
        self._leave_on_host(set())

    def _leave_on_host(self, weights: Container[int]) -> None:
        """Move the weights with these identities to the host, and whatever else the blocks have to the device."""
        for parameter in self.transformer.blocks.parameters():
            place = torch.device("cpu") if id(parameter) in weights else self.transformer.device
            parameter.data = parameter.data.to(place)


def _is_on(kernel: object, device: torch.device) -> bool:
    """Whether a kernel keeps its integers on a device, and need not be made again for it."""
    return isinstance(kernel, WeightOnlyKernel) and kernel.device == device


class Int8Weights(_WeightOnly):
    """Keeps the weights in 8 bits, 8.5 with scale and minimum."""

    name: ClassVar[str] = "int8-weights"
    bits: ClassVar[int] = 8


class Int4Weights(_WeightOnly):
    """Keeps the weights in 4 bits, 4.5 with scale and minimum."""

    name: ClassVar[str] = "int4-weights"
    bits: ClassVar[int] = 4
