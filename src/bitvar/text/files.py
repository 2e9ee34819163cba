"""The files of a text encoder's folder, checked before a model is built: their content, sizes and company.

A `config.json` is reduced to the sizes of the known kinds, so nothing in it can name code, a kernel or a place to
download from. This module knows neither transformers nor a model.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bitvar.config import Config, check_room, read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.file_kinds import require_file_kind

WEIGHTS: Final = "model.safetensors"
_FOREIGN: Final = ("adapter_config.json", "adapter_model.*", "*.py", "*.so", "*.gguf")
"""Files that would change the output of a model beside its weights, or that are code."""

_MAX_JSON_BYTES: Final = 1 << 26
_MAX_VOCABULARY: Final = 1 << 20
_MAX_ADDED: Final = 1 << 14
_MAX_PATTERN: Final = 64
_MAX_REPEATS: Final = 100

Layers = Annotated[int, Field(ge=1, le=256)]
Width = Annotated[int, Field(ge=1, le=1 << 16)]
Heads = Annotated[int, Field(ge=1, le=1 << 10)]
Rows = Annotated[int, Field(ge=1, le=_MAX_VOCABULARY)]
Epsilon = Annotated[float, Field(ge=0, le=1)]


class EncoderSizes(Config):
    """The part of a `config.json` that determines the computation. Other keys are left out."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters of a model of these sizes, without biases and norms."""


class BertSizes(EncoderSizes):
    """Sizes of a BERT, under the names of its `config.json`."""

    vocab_size: Rows
    hidden_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    intermediate_size: Width
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"] = "gelu"
    max_position_embeddings: Rows = 512
    type_vocab_size: Annotated[int, Field(ge=1, le=1 << 10)] = 2
    layer_norm_eps: Epsilon = 1e-12
    pad_token_id: Annotated[int, Field(ge=0, lt=_MAX_VOCABULARY)] | None = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "BertSizes":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must divide hidden_size {self.hidden_size}"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} must be less than vocab_size {self.vocab_size}")
        return self

    @property
    def parameters(self) -> int:
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return rows * self.hidden_size + self.num_hidden_layers * layer


class T5Sizes(EncoderSizes):
    """Sizes of a T5 encoder, under the names of its `config.json`."""

    vocab_size: Rows
    d_model: Width
    d_kv: Annotated[int, Field(ge=1, le=1 << 10)]
    d_ff: Width
    num_layers: Layers
    num_heads: Heads
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=1 << 12)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=1, le=1 << 16)] = 128
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-relu", "gated-silu"] = "relu"
    pad_token_id: Annotated[int, Field(ge=0, lt=_MAX_VOCABULARY)] | None = 0

    @property
    def parameters(self) -> int:
        gated = self.feed_forward_proj.startswith("gated-")
        layer = self.d_model * (4 * self.num_heads * self.d_kv + (2 + gated) * self.d_ff)
        return self.vocab_size * self.d_model + self.num_layers * layer


_SIZES: Final[dict[str, tuple[str, type[EncoderSizes], str]]] = {
    "minilm": ("bert", BertSizes, "all-MiniLM-L6-v2"),
    "t5": ("t5", T5Sizes, "google/flan-t5-xl"),
}
"""Kind -> its `model_type`, its sizes, and an example of such an encoder."""


def sizes_of(kind: str) -> type[EncoderSizes]:
    """Return the class of the sizes of a kind of encoder."""
    return _SIZES[kind][1]


def refuse_foreign_files(folder: Path) -> None:
    """Refuse a folder with adapters or code beside the weights. Such files are never read.

    Raises:
        WeightsError: naming them.
    """
    foreign = sorted({path.name for pattern in _FOREIGN for path in folder.glob(pattern)})
    if foreign:
        raise WeightsError(
            f"The text encoder {folder} has files that don't belong there: {', '.join(foreign[:5])}.",
            "adapters and code beside the weights are never read, and the encoder would not be the one they make",
            "remove them, or give a folder without them",
        )


def read_sizes(folder: Path, kind: str) -> EncoderSizes:
    """Read the sizes in a folder's `config.json`, and check them against bounds and the size of the weights.

    Raises:
        WeightsError: for a model of another kind, sizes out of range, or weights too small for these sizes.
    """
    model_type, sizes, example = _SIZES[kind]
    try:
        values = read_json(folder / "config.json")
        found_type = values.get("model_type")
        if found_type != model_type:
            known = ", ".join(f"{name} ({encoder})" for name, _, encoder in _SIZES.values())
            raise WeightsError(
                f"The text encoder {folder} has the model type {str(found_type)[:100]!r}.",
                f"a {model_type} is expected here, and bitvar reads these: {known}",
                f"give the encoder that the transformer was trained with, such as {example}",
            )
        known_values = {name: value for name, value in values.items() if name in sizes.model_fields}
        checked = sizes.parse(known_values, source=str(folder / "config.json"))
        for path in _weight_files(folder):
            require_file_kind(path, "safetensors")
        check_room(checked.parameters, folder, source=str(folder / "config.json"))
    except UsageError as error:
        raise WeightsError(str(error)) from None
    return checked


def read_weights(folder: Path, *, leave_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read the tensors of a folder, from one safetensors file or several with an index.

    Args:
        folder: Folder of a text encoder.
        leave_out: Prefixes of the names of tensors to skip.

    Raises:
        WeightsError: for missing or unreadable files.
    """
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if not name.startswith(leave_out)]  # noqa: SIM118
                tensors |= {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"Can't read the text encoder {folder}.", f"{path.name}: {error}", "download the model again"
            ) from None
    return {name: tensor for name, tensor in tensors.items() if not is_position_index(name, tensor)}


def is_position_index(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is the row of integers 0, 1, 2, ... that published BERT files contain."""
    return name.endswith("position_ids") and not tensor.is_floating_point() and not tensor.is_complex()


def check_vocabulary(folder: Path, sizes: EncoderSizes) -> None:
    """Check `tokenizer.json` before a parser compiles it: its size, its patterns and its token ids.

    Raises:
        WeightsError: for a file that is too large, has patterns that could take forever, or ids without an embedding.
    """
    path = folder / "tokenizer.json"
    if path.is_file() and path.stat().st_size > _MAX_JSON_BYTES:
        raise _bad_vocabulary(path, f"it has {path.stat().st_size:,} bytes, of {_MAX_JSON_BYTES:,} at most")
    try:
        values = read_json(path)
    except UsageError as error:
        raise WeightsError(str(error)) from None
    for pattern in _patterns(values):
        if not is_simple_pattern(pattern):
            raise _bad_vocabulary(path, f"the pattern {pattern[:60]!r} could take forever to match")
    model = values.get("model")
    words = model.get("vocab") if isinstance(model, Mapping) else None
    added = values.get("added_tokens") or []
    if not isinstance(words, dict | list) or not isinstance(added, list):
        raise _bad_vocabulary(path, "it has no model with a vocabulary")
    if len(words) > _MAX_VOCABULARY or len(added) > _MAX_ADDED:
        raise _bad_vocabulary(path, f"it has {len(words):,} words and {len(added):,} added ones")
    ids = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
    ids += [entry.get("id") for entry in added if isinstance(entry, Mapping)]
    rows = getattr(sizes, "vocab_size")  # noqa: B009
    wrong = [index for index in ids if not isinstance(index, int) or not 0 <= index < rows]
    if wrong:
        raise _bad_vocabulary(path, f"it has the id {str(wrong[0])[:30]}, and the model has embeddings for {rows:,}")


def is_simple_pattern(pattern: str) -> bool:
    """Whether a regular expression surely takes linear time: it is short, has no group and at most one repeat."""
    plain = re.sub(r"\\.", "", pattern)
    classes = re.sub(r"\[[^\]]*\]", "", plain)
    repeats = re.findall(r"[*+?]|\{[^}]*\}", classes)
    numbers = [int(number) for number in re.findall(r"\d{1,9}", "".join(repeats))]
    short = len(pattern) <= _MAX_PATTERN and "(" not in plain and len(repeats) <= 1
    return short and not re.search(r"\d{10}", pattern) and all(number <= _MAX_REPEATS for number in numbers)


def _patterns(value: Any) -> Iterator[str]:
    """Yield every regular expression in the JSON of a tokenizer. Its dictionary of words is skipped."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "Regex":
                yield str(inner)
            elif name not in ("vocab", "merges"):
                yield from _patterns(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _patterns(inner)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / f"{WEIGHTS}.index.json"
    if not index.is_file():
        if not (folder / WEIGHTS).is_file():
            others = [path.name for pattern in ("*.bin", "*.pt", "*.h5", "*.msgpack") for path in folder.glob(pattern)]
            why = f"it has no {WEIGHTS}" + (f", but {', '.join(sorted(others)[:3])}" if others else "")
            raise WeightsError(f"Can't read the text encoder {folder}.", why, "download its safetensors and JSON files")
        return [folder / WEIGHTS]
    try:
        places = read_json(index).get("weight_map")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    names = sorted({str(name) for name in places.values()}) if isinstance(places, Mapping) else []
    if not names or any(Path(name).name != name or not (folder / name).is_file() for name in names):
        why = f"{index.name} names no files, or files that are not beside it"
        raise WeightsError(f"Can't read the text encoder {folder}.", why, "download the model again")
    return [folder / name for name in names]


def _bad_vocabulary(path: Path, why: str) -> WeightsError:
    return WeightsError(f"Can't read the vocabulary {path}.", why, "download the model again")


def special_tokens(folder: Path) -> dict[str, str]:
    """Read the special tokens in `tokenizer_config.json`."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "eos_token")
    return {name: _text(settings[name]) for name in names if settings.get(name)}


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token
