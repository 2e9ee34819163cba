"""Changes of how a model computes, made from outside and undone without a trace. The plain model is the reference.

An optimization never touches weights: the copies that it prepares are kept beside them, and never saved.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import nn

from bitvar.nn.linear import Linear
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer


class Optimization(ABC):
    """A faster way to compute a model, applied in place.

    Args:
        transformer: Transformer to change.
        tokenizer: Image tokenizer to change.
        text_encoder: Text encoder to change; None for a model without one.

    Attributes:
        name: Name that users choose it by.
        exact: Whether it computes the same function, so that results differ by rounding alone.
        devices: Types of device that it is made for, such as "cpu".
        only_by_name: Whether no word such as "exact" chooses it, because it saves memory and costs time.
        copies_weights: Whether it keeps a copy of the transformer's weights.
        takes_blocks_from_host: Whether the blocks of a model that is loaded with it need no room on the device.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    devices: ClassVar[tuple[str, ...]]
    only_by_name: ClassVar[bool] = False
    copies_weights: ClassVar[bool] = False
    takes_blocks_from_host: ClassVar[bool] = False

    def __init__(
        self, transformer: InfinityTransformer, tokenizer: InfinityTokenizer, text_encoder: TextEncoder | None = None
    ) -> None:
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder

    @staticmethod
    @abstractmethod
    def available() -> bool:
        """Whether this build of PyTorch has what the optimization needs."""

    @abstractmethod
    def apply(self) -> None:
        """Change the model."""

    @abstractmethod
    def refresh(self) -> None:
        """Take over weights that have changed: adapters loaded or fused, another precision or device."""

    @abstractmethod
    def undo(self) -> None:
        """Leave the model as it was before `apply`."""

    @abstractmethod
    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        """Return what computes logits in place of `plain`, or `plain` itself."""


class LayerOptimization(Optimization):
    """An optimization that gives layers a `kernel`, which each computes with in inference."""

    def __init__(
        self, transformer: InfinityTransformer, tokenizer: InfinityTokenizer, text_encoder: TextEncoder | None = None
    ) -> None:
        super().__init__(transformer, tokenizer, text_encoder)
        self._kernels: dict[nn.Module, object] = {}

    @abstractmethod
    def layers(self) -> Iterator[nn.Module]:
        """Yield the layers that it changes. They have an attribute `kernel`, None in the plain model."""

    @abstractmethod
    def new_kernel(self) -> object:
        """Make the kernel of one layer.

        It prepares weights on first use and when they have changed, for which a `Prepared` serves.
        """

    def apply(self) -> None:
        self._kernels = {layer: self._kernels.get(layer) or self.new_kernel() for layer in self.layers()}
        for layer, kernel in self._kernels.items():
            layer.kernel = kernel  # type: ignore[assignment]

    def refresh(self) -> None:
        self.apply()  # layers may have come, and each kernel sees for itself whether its weights have changed

    def undo(self) -> None:
        for layer in self.layers():
            layer.kernel = None  # type: ignore[assignment]

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain


class DecoderOptimization(Optimization):
    """An optimization that leaves the model as it is and works through the decoder alone."""

    def apply(self) -> None:
        pass

    def refresh(self) -> None:
        pass

    def undo(self) -> None:
        pass


def block_layers(transformer: InfinityTransformer) -> Iterator[nn.Module]:
    """Yield the linear layers of the blocks, those inside of adapted layers included, and those of adapters not."""
    for name, module in transformer.blocks.named_modules():
        if isinstance(module, Linear) and ".lora_" not in name:
            yield module
