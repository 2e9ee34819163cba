"""Inference through torch.compile: what lies between a block's matrix products, and the decoder of images.

Fused sums run in another order, so results differ from the plain model's by rounding, in fp32 too. All blocks share the
compiled code (`runtime/fused_block.py`), and so do scales of different lengths.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch
from torch import nn

from bitvar.runtime.fused_block import FusedBlock
from bitvar.runtime.optimization import Optimization
from bitvar.sampling.decoder import ScaleDecoder

MAX_FORMS: Final = 64
"""Compiled forms of one function that may exist, by shapes; beyond PyTorch's own limit it would run uncompiled."""


class CompiledBlocks(Optimization):
    """Compiles the transformer's blocks and the decoder of images when they first run, which takes a minute or so."""

    name: ClassVar[str] = "compile"
    exact: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    @staticmethod
    def available() -> bool:
        return torch.cuda.is_available()

    def apply(self) -> None:
        for block in self.transformer.blocks:
            vars(block)["forward"] = _InferenceForward(block, _FUSED)
        decoder = self.tokenizer.decoder
        vars(decoder)["forward"] = _InferenceForward(decoder, _compiled_forward)

    def refresh(self) -> None:
        """Do nothing: compiled code reads the weights as they are, and is made again for another dtype or device."""

    def undo(self) -> None:
        for module in (*self.transformer.blocks, self.tokenizer.decoder):
            del module.forward

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain


class _InferenceForward:
    """Another forward pass of a module in inference. Where gradients are wanted, its own runs.

    Args:
        module: Module whose class defines its own forward pass.
        forward: Function of the module and the arguments. Copies and pickles of it must be possible.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._forward = module, forward

    def __call__(self, *given: Any, **named: Any) -> Any:
        forward = type(self._module).forward if torch.is_grad_enabled() else self._forward
        return forward(self._module, *given, **named)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for the sizes that it meets. Those that turn out to vary become variables."""
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_FORMS)
    return torch.compile(function)


def _compiled_forward(module: nn.Module, *given: Any) -> Any:
    return _compiled(type(module).forward)(module, *given)


_FUSED: Final = FusedBlock(_compiled)
