"""A text encoder whose linear layers keep their weights in 8 bits: lossy, half the memory of bf16.

The T5 of the published models has more weights than the 2B preset's blocks have in 8 bits. Embeddings and norms stay as
they are.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.runtime.optimization import Optimization
from bitvar.runtime.weight_only import WeightOnlyKernel
from bitvar.sampling.decoder import ScaleDecoder


class Int8Text(Optimization):
    """Keeps the weights of the text encoder's linear layers in 8 bits. On a card, the originals wait on the host."""

    name: ClassVar[str] = "int8-text"
    exact: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @staticmethod
    def available() -> bool:
        return True

    def apply(self) -> None:
        device = self._device()
        for layer in self._layers():
            if device.type == "cuda":
                layer.weight.data = layer.weight.data.to("cpu")
            restored = vars(layer).get("forward")
            if not (isinstance(restored, _Restored) and restored.kernel.device == device):
                vars(layer)["forward"] = restored = _Restored(layer, WeightOnlyKernel(8, device))
            restored.kernel.prepare(layer.weight)

    def refresh(self) -> None:
        """Follow the encoder to another device or precision. Integers of weights that stayed are kept."""
        self.apply()

    def undo(self) -> None:
        for layer in self._layers():
            del layer.forward
            layer.weight.data = layer.weight.data.to(self._device())

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain

    def _layers(self) -> Iterator[nn.Linear]:
        assert self.text_encoder is not None, "chosen for models with a text encoder only"
        return (module for module in self.text_encoder.model.modules() if isinstance(module, nn.Linear))

    def _device(self) -> torch.device:
        assert self.text_encoder is not None, "chosen for models with a text encoder only"
        return self.text_encoder.model.get_input_embeddings().weight.device  # type: ignore[operator, union-attr]


class _Restored:
    """The forward pass of a linear layer whose weights are restored at every call. It can be copied and pickled."""

    def __init__(self, layer: nn.Linear, kernel: WeightOnlyKernel) -> None:
        self._layer, self.kernel = layer, kernel

    def __call__(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return self.kernel(x, self._layer.weight, self._layer.bias, gelu=False)
