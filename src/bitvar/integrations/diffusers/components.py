"""The parts of a model as models of diffusers, which saves, loads, moves and offloads them by its own means.

Each holds a network of bitvar and the settings to build it again. diffusers finds a class by the module that it was
defined in, so all of them stay in this file.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from bitvar.text import TextEncoder, TextEncoderConfig, build_text_encoder
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig


class InfinityTransformerModel(ModelMixin, ConfigMixin):
    """The transformer.

    Args:
        settings: Content of its `TransformerConfig`.
    """

    @register_to_config
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.network = InfinityTransformer(TransformerConfig.parse(settings, source="the transformer's settings"))

    @classmethod
    def around(cls, network: InfinityTransformer) -> "InfinityTransformerModel":
        """Make a model of diffusers that shares the weights of a transformer."""
        with torch.device("meta"):
            made = cls(network.config.model_dump(mode="json"))
        made.network = network
        return made

    @apply_forward_hook
    def ready(self) -> InfinityTransformer:
        """Bring the weights to the device that computes, and return the network."""
        return self.network


class InfinityAutoencoderModel(ModelMixin, ConfigMixin):
    """The image tokenizer, an autoencoder with bits in the middle.

    Args:
        settings: Content of its `TokenizerConfig`.
    """

    @register_to_config
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.network = InfinityTokenizer(TokenizerConfig.parse(settings, source="the image tokenizer's settings"))

    @classmethod
    def around(cls, network: InfinityTokenizer) -> "InfinityAutoencoderModel":
        """Make a model of diffusers that shares the weights of an image tokenizer."""
        with torch.device("meta"):
            made = cls(network.config.model_dump(mode="json"))
        made.network = network
        return made

    @apply_forward_hook
    def ready(self) -> InfinityTokenizer:
        """Bring the weights to the device that computes, and return the network."""
        return self.network


class InfinityTextEncoderModel(ModelMixin, ConfigMixin):
    """The text encoder with its vocabulary.

    Args:
        settings: Content of its `TextEncoderConfig`.
        sizes: Sizes of its network, as in the `config.json` of published encoders.
        vocabulary: Content of its `tokenizer.json`.
        special: Special tokens of the vocabulary by their role.
    """

    @register_to_config
    def __init__(
        self, settings: dict[str, Any], sizes: dict[str, Any], vocabulary: str, special: dict[str, str]
    ) -> None:
        super().__init__()
        checked = TextEncoderConfig.parse(settings, source="the text encoder's settings")
        self._encoder = build_text_encoder(checked, sizes, vocabulary, special=special)
        self.network = self._encoder.model
        self._register_state_dict_hook(_copy_shared)

    @classmethod
    def around(cls, encoder: TextEncoder) -> "InfinityTextEncoderModel":
        """Make a model of diffusers that shares the weights of a text encoder."""
        settings = TextEncoderConfig(kind=encoder.kind, hidden_states=encoder.hidden_states)
        with tempfile.TemporaryDirectory(prefix="bitvar-") as place:
            encoder.tokenizer.save(Path(place))
            vocabulary = (Path(place) / "tokenizer.json").read_text(encoding="utf-8")
            special = json.loads((Path(place) / "tokenizer_config.json").read_text(encoding="utf-8"))
        roles = {role: token for role, token in special.items() if role.endswith("_token") and isinstance(token, str)}
        with torch.device("meta"):
            made = cls(settings.model_dump(mode="json"), encoder.sizes(), vocabulary, roles)
        made._encoder, made.network = encoder, encoder.model
        return made

    @apply_forward_hook
    def ready(self) -> TextEncoder:
        """Bring the weights to the device that computes, and return the encoder."""
        return self._encoder

    @property
    def encoder(self) -> TextEncoder:
        """The encoder, wherever its weights are: for counting tokens and for its sizes."""
        return self._encoder


def _copy_shared(module: nn.Module, tensors: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """Copy the tensors of a state dict that share memory, as a T5's two embeddings do: safetensors can't hold them."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.device.type == "meta":
            continue
        if tensor.data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
