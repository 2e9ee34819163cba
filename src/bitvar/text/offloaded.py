"""A text encoder that leaves the device when it has encoded a prompt: it computes once an image, and briefly."""

import threading
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.text.encoders import TextEncoder, load_text_encoder


class OffloadedTextEncoder(TextEncoder):
    """A text encoder that waits elsewhere. It gives the same features, bit for bit.

    On an accelerator, it waits in the host's memory. On a CPU, all but its embeddings is dropped, and read again from
    its folder for the next prompt, in the precision that the embeddings have by then.

    Args:
        encoder: Encoder to ask, which this object takes over.
        folder: Folder that it was loaded from.
        device: Device that it computes on.
    """

    def __init__(self, encoder: TextEncoder, folder: Path, device: torch.device) -> None:
        super().__init__(encoder.model, encoder.tokenizer, encoder.hidden_states)
        self.kind = encoder.kind
        self._folder, self.device = folder, device
        self._encoder = encoder
        self._lock = threading.Lock()
        self._leave()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, which nobody holds in a copy."""
        return {name: value for name, value in super().__getstate__().items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._lock = threading.Lock()

    @property
    def drops_weights(self) -> bool:
        """Whether the weights are dropped while it waits, so that they can be neither saved nor moved."""
        return self.device.type == "cpu"

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        with self._lock:
            if self.drops_weights:
                dtype = self.model.get_input_embeddings().weight.dtype  # type: ignore[operator]
                return load_text_encoder(self._folder, dtype=dtype)._features(ids, mask)
            self.model.to(self.device)
            try:
                return self._encoder._features(ids.to(self.device), mask.to(self.device))
            finally:
                self._leave()

    def _leave(self) -> None:
        if not self.drops_weights:
            self.model.to("cpu")
            return
        kept = self.model.get_input_embeddings()  # type: ignore[operator]
        for module in self.model.modules():
            if module is not kept:
                for name, parameter in module.named_parameters(recurse=False):
                    if parameter is not kept.weight:
                        setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
