"""How trainers name the tensors of an adapter, in terms of a model's own layers. Knows nothing of files.

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


class Place(NamedTuple):
    """Where a tensor belongs: a layer, as the model or else as the file names it, and `A`, `B` or `alpha`."""

    layer: str
    part: str


def place_of(key: str, layers: Collection[str]) -> Place | None:
    """Where the tensor of this name belongs, for a model of these layers; None for a name of no known form."""
    dotted = _DOTTED.fullmatch(key)
    if dotted:
        return Place(dotted[1], dotted[2])
    kohya = _KOHYA.fullmatch(key)
    if kohya is None:
        return None
    own = next((layer for layer in layers if layer.replace(".", "_") == kohya[1]), kohya[1])
    return Place(own, _PARTS[kohya[2]])
