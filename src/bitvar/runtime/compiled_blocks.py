"""Inference through torch.compile: one block at a time, and the decoder of images.

The compiler fuses what lies between matrix products: norm and modulation, the norm of q and k with RoPE, gated
residuals, group norm with its activation. Sums run in another order, so results differ from the plain model's by
rounding, in fp32 too. All blocks share one compiled form, and scales of different lengths do as far as possible.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch
from torch import nn

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
            block.forward = _CompiledForward(block, dynamic=None)
        self.tokenizer.decoder.forward = _CompiledForward(self.tokenizer.decoder, dynamic=False)

    def refresh(self) -> None:
        """Do nothing: compiled code checks what it was compiled for, and is made again where modules have changed."""

    def undo(self) -> None:
        for module in (*self.transformer.blocks, self.tokenizer.decoder):
            del module.forward

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain


class _CompiledForward:
    """The compiled forward pass of a module; as it is where gradients are wanted. Copies and pickles like the module.

    Args:
        module: Module whose class defines the forward pass.
        dynamic: Whether sizes are variables of the compiled code; None makes those variables that turn out to vary.
    """

    def __init__(self, module: nn.Module, *, dynamic: bool | None) -> None:
        self._module, self._dynamic = module, dynamic

    def __call__(self, *given: Any, **named: Any) -> Any:
        kind = type(self._module)
        forward = kind.forward if torch.is_grad_enabled() else _compiled(kind, self._dynamic)
        return forward(self._module, *given, **named)


@functools.cache
def _compiled(kind: type[nn.Module], dynamic: bool | None) -> Callable[..., Any]:
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_FORMS)
    return torch.compile(kind.forward, dynamic=dynamic)
