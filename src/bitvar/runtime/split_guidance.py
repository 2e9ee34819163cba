"""Guidance's two halves on two cards, each with all weights: the unconditional half on the second one."""

import copy
from typing import Any, ClassVar

import torch
from torch import nn

from bitvar.runtime.optimization import Optimization
from bitvar.runtime.sequential_guidance import HalvesApart
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer


class SplitGuidance(Optimization):
    """Computes the second half of the rows on a second card.

    The first card prepares a scale's work before it prepares the second's, so that the halves overlap as far as the
    host is not what they wait for.
    """

    name: ClassVar[str] = "split-guidance"
    exact: ClassVar[bool] = True
    only_by_name: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def __init__(
        self, transformer: InfinityTransformer, tokenizer: InfinityTokenizer, text_encoder: TextEncoder | None = None
    ) -> None:
        super().__init__(transformer, tokenizer, text_encoder)
        self._twin: InfinityTransformer | None = None

    @staticmethod
    def available() -> bool:
        return torch.cuda.device_count() > 1

    def apply(self) -> None:
        self._twin = copy_to(self.transformer, second_device(self.transformer.device))

    def refresh(self) -> None:
        self.apply()

    def undo(self) -> None:
        self._twin = None

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return HalvesApart(plain, self._twin)


def second_device(first: torch.device) -> torch.device:
    """Choose the card for the second half; the same device where there is only one, as on a CPU."""
    if first.type != "cuda":
        return first
    return torch.device("cuda", ((first.index or 0) + 1) % torch.cuda.device_count())


def copy_to(transformer: InfinityTransformer, device: torch.device) -> InfinityTransformer:
    """Copy a transformer, its adapters and kernels included, to a device, without a second copy on its own."""
    tensors = [*transformer.parameters(), *transformer.buffers()]
    memo = {id(tensor): _moved(tensor, device) for tensor in tensors}
    return copy.deepcopy(transformer, memo)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.detach().to(device, copy=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
