"""Descriptions of model and tokenizer folders, from their small files and the headers of their weights."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.files import open_plain
from bitvar.sampling.params import SamplingParams
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import MANIFEST, merged_digest, read_card, read_object
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import digest_of_parts, find_tokenizer
from bitvar.weights.vocabulary import Vocabulary, load_vocabulary

_PRECISIONS: Final = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_ITEMSIZE: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER: Final = 1 << 27


@dataclass(frozen=True)
class Description:
    """The content of a folder.

    Attributes:
        kind: "model" or "tokenizer".
        name: Name of the model or tokenizer.
        folder: Path of the folder.
        digest: Merged digest of the files that determine the output, from the manifest; empty without one.
        sizes: Every (width, height) in pixels that a model generates; empty for a tokenizer, which takes any size.
        parameters: Number of parameters of each part.
        precision: Precisions of the weights of each part.
        stored: Bytes of the weights of each part.
        max_prompt: Length of the longest prompt, in tokens of the text encoder; 0 for a tokenizer.
        defaults: Sampling settings of a model.
        tokenizer: Identity of the tokenizer.
        bits, stride: Bits per cell of the tokenizer, and pixels per cell side.
        text_encoder: Kind of the text encoder; None without one.
        licence: Licence named by the card; None if it names none.
        card: Path of the card; None without one.
        vocabulary: Concepts and words that the model knows, if the folder lists them.
    """

    kind: str
    name: str
    folder: Path
    digest: str
    sizes: tuple[tuple[int, int], ...]
    parameters: dict[str, int]
    precision: dict[str, str]
    stored: dict[str, int]
    max_prompt: int
    defaults: SamplingParams | None
    tokenizer: TokenizerIdentity
    bits: int
    stride: int
    text_encoder: str | None
    licence: str | None
    card: Path | None
    vocabulary: Vocabulary | None


def describe(folder: Path) -> Description:
    """Describe a model folder or a tokenizer folder. No weights are loaded.

    Raises:
        WeightsError: for a folder that is neither, or damaged files.
    """
    own = find_tokenizer(folder)
    is_model = own != folder
    if not is_model and not (folder / "identity.json").is_file():
        why = "it has neither model_index.json nor identity.json"
        raise WeightsError(f"{folder} is no folder of a model or a tokenizer.", why, "check the path")
    try:
        config = TransformerConfig.load(folder / "transformer" / "config.json") if is_model else None
        tokenizer = TokenizerConfig.load(own / "config.json")
        identity = TokenizerIdentity.load(own / "identity.json")
        index = ModelIndex.load(folder / "model_index.json") if is_model else None
    except UsageError as error:
        raise WeightsError(str(error)) from None
    places = {"transformer": folder / "transformer", "image_tokenizer": own, "text_encoder": folder / "text_encoder"}
    counted = {part: _count(place) for part, place in places.items() if place.is_dir()}
    side = tokenizer.stride * (config.patch_size if config else 1)
    schedules = config.all_schedules() if config else []
    sums = read_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    card = folder / "README.md"
    return Description(
        kind="model" if is_model else "tokenizer",
        name=index.name if index else identity.name,
        folder=folder,
        digest=(digest_of_parts(sums) if is_model else merged_digest(sums)) if sums else "",
        sizes=tuple(dict.fromkeys((schedule[-1][1] * side, schedule[-1][0] * side) for schedule in schedules)),
        parameters={part: number for part, (number, _, _) in counted.items()},
        precision={part: precision for part, (_, precision, _) in counted.items()},
        stored={part: size for part, (_, _, size) in counted.items()},
        max_prompt=config.max_text_tokens if config else 0,
        defaults=index.defaults if index else None,
        tokenizer=identity,
        bits=tokenizer.bits,
        stride=tokenizer.stride,
        text_encoder=_encoder_kind(folder / "text_encoder"),
        licence=_licence(read_card(folder)),
        card=card if card.is_file() else None,
        vocabulary=load_vocabulary(folder),
    )


def _count(folder: Path) -> tuple[int, str, int]:
    """Count the parameters in a folder, list their precisions, the most common first, and add up their bytes."""
    kinds: Counter[str] = Counter()
    size = 0
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in _header(path).values():
            count = prod(int(side) for side in tensor["shape"])
            kinds[str(tensor["dtype"])] += count
            size += count * _ITEMSIZE.get(str(tensor["dtype"]), 0)
    return kinds.total(), ", ".join(_PRECISIONS.get(kind, kind) for kind, _ in kinds.most_common()), size


def _header(path: Path) -> dict[str, Any]:
    try:
        with open_plain(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER, path.stat().st_size):
                raise ValueError(f"its header would have {length:,} bytes")
            header = json.loads(file.read(length))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        if not all("dtype" in tensor and "shape" in tensor for tensor in tensors.values()):
            raise ValueError("its header describes no tensors")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"Can't read the weights {path}.", str(error), "download the model again") from None
    return tensors


def _encoder_kind(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    try:
        layers = read_json(folder / "config.json")
        kind = str(read_json(folder / "bitvar.json").get("kind"))
    except UsageError as error:
        raise WeightsError(str(error)) from None
    width = layers.get("hidden_size", layers.get("d_model"))
    depth = layers.get("num_hidden_layers", layers.get("num_layers"))
    return f"{kind}, {depth} layers of width {width}"


def _licence(text: str) -> str | None:
    """Read the `license` in the front matter of a card."""
    front = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    match = re.search(r"^license: *(\S.*)$", front[1], flags=re.MULTILINE) if front else None
    return match[1].strip()[:100] if match else None
