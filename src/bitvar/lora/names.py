"""Names that trainers give to the tensors of an adapter. This module knows nothing of files.

| trainer | names of one layer |
|---|---|
| diffusers, bitvar | `transformer.LAYER.lora_A.weight`, `.lora_B.weight` |
| PEFT | `base_model.model.LAYER.lora_A.weight`, `.lora_B.weight` |
| kohya | `lora_unet_LAYER.lora_down.weight`, `.lora_up.weight`, `.alpha`, with `_` for each dot of the layer |
"""

import re
from collections.abc import Collection
from typing import Final, NamedTuple

PREFIX: Final = "transformer"
PEFT_PREFIX: Final = "base_model.model."
KOHYA_PREFIXES: Final = ("lora_unet_", "lora_transformer_")

_DOTTED: Final = re.compile(
    rf"(?:{re.escape(PEFT_PREFIX)}(?:{PREFIX}\.)?|{PREFIX}\.)(.+)\.lora_([AB])(?:\.default)?\.weight"
)
_KOHYA: Final = re.compile(rf"(?:{'|'.join(KOHYA_PREFIXES)})([^.]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_PARTS: Final = {"lora_down.weight": "A", "lora_up.weight": "B", "alpha": "alpha"}


class TensorRole(NamedTuple):
    """The role of a tensor in an adapter.

    Attributes:
        layer: Name of the layer in the model, or in the file if the model has no such layer.
        part: "A", "B" or "alpha".
    """

    layer: str
    part: str


def parse_name(key: str, layers: Collection[str]) -> TensorRole | None:
    """Parse the name of a tensor; None for a name of unknown form.

    Args:
        key: Name of the tensor in the file.
        layers: Names of the model's layers.
    """
    dotted = _DOTTED.fullmatch(key)
    if dotted:
        return TensorRole(dotted[1], dotted[2])
    kohya = _KOHYA.fullmatch(key)
    if kohya is None:
        return None
    own = next((layer for layer in layers if layer.replace(".", "_") == kohya[1]), kohya[1])
    return TensorRole(own, _PARTS[kohya[2]])
