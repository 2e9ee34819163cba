"""A text encoder that remembers the prompts it encoded last, for servers, where prompts repeat."""

import threading
from collections import OrderedDict
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.text.encoders import TextEncoder

_PROMPTS: Final = 64


class CachedTextEncoder(TextEncoder):
    """A text encoder with a cache. It gives the same features, bit for bit.

    Only prompts that are encoded by themselves are kept: in a batch, the other prompts may change the rounding.

    Args:
        encoder: Encoder to ask.
        max_prompts: Number of prompts to keep; the one used longest ago is dropped.
    """

    def __init__(self, encoder: TextEncoder, max_prompts: int = _PROMPTS) -> None:
        super().__init__(encoder.model, encoder.tokenizer, encoder.hidden_states)
        self.kind = encoder.kind
        self._encoder = encoder
        self._max_prompts = max_prompts
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        if len(ids) != 1:
            return self._encoder._features(ids, mask)
        key = tuple(ids[0].tolist())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].clone()
        with torch.inference_mode():
            features = self._encoder._features(ids, mask)
        with self._lock:
            self._kept[key] = features.clone()
            if len(self._kept) > self._max_prompts:
                self._kept.popitem(last=False)
        return features
