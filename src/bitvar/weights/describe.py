"""What a model or tokenizer folder holds, read from its small files and the headers of its weights; none are loaded."""

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
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import MANIFEST, merged_digest, read_card, read_object
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.index import Defaults, ModelIndex
from bitvar.weights.model_folder import digest_of_parts, find_tokenizer
from bitvar.weights.vocabulary import Vocabulary, load_vocabulary

_PRECISIONS: Final = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_MAX_HEADER: Final = 1 << 27


@dataclass(frozen=True)
class Description:
    """What a folder holds.

    Attributes:
        kind: "model" or "tokenizer".
        name: the model's own name.
        folder: where it is.
        digest: one digest of the files that compute, by its manifest; empty without one.
        sizes: every (width, height) in pixels that a model draws; none for a tokenizer, which takes any.
        parameters: the number of parameters of each part.
        precision: the precisions of the weights of each part.
        max_prompt: the longest prompt, in tokens of the text encoder; 0 for a tokenizer.
        defaults: the sampling settings of a model.
        tokenizer: the identity of the tokenizer.
        bits, stride: bits of a cell of the tokenizer, and pixels of a cell's side.
        text_encoder: the kind of the text encoder; None without one.
        licence: what the card says; None where it doesn't.
        card: the card's path; None without one.
        vocabulary: what the model knows, where the folder says.
    """

    kind: str
    name: str
    folder: Path
    digest: str
    sizes: tuple[tuple[int, int], ...]
    parameters: dict[str, int]
    precision: dict[str, str]
    max_prompt: int
    defaults: Defaults | None
    tokenizer: TokenizerIdentity
    bits: int
    stride: int
    text_encoder: str | None
    licence: str | None
    card: Path | None
    vocabulary: Vocabulary | None


def describe(folder: Path) -> Description:
    """Read what a model folder or a tokenizer folder holds.

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
        parameters={part: number for part, (number, _) in counted.items()},
        precision={part: precision for part, (_, precision) in counted.items()},
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


def _count(folder: Path) -> tuple[int, str]:
    """The numbers in the safetensors of a folder, and their precisions, the commonest first."""
    kinds: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        for entry in _header(path).values():
            kinds[str(entry["dtype"])] += prod(int(side) for side in entry["shape"])
    return kinds.total(), ", ".join(_PRECISIONS.get(kind, kind) for kind, _ in kinds.most_common())


def _header(path: Path) -> dict[str, Any]:
    try:
        with open_plain(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER, path.stat().st_size):
                raise ValueError(f"its header would have {length:,} bytes")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if not all("dtype" in entry and "shape" in entry for entry in entries.values()):
            raise ValueError("its header describes no tensors")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"Can't read the weights {path}.", str(error), "download the model again") from None
    return entries


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
    """The `license` of a card's front matter."""
    front = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    found = re.search(r"^license: *(\S.*)$", front[1], flags=re.MULTILINE) if front else None
    return found[1].strip()[:100] if found else None
