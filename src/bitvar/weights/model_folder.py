"""Model folders: `model_index.json`, `transformer/`, `image_tokenizer/`, `text_encoder/`, `README.md`, digests.

Weights are safetensors, sharded above 5 GB. Classes are those written here, never a name in a file. The index names, by
digest, the tokenizer that the transformer was trained with, and another is refused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from pydantic import Field
from torch import Tensor, nn

from bitvar.config import Config, check_room
from bitvar.errors import UsageError, WeightsError
from bitvar.file_kinds import refuse_pointers
from bitvar.finite import cast_weights, require_sound_weights
from bitvar.lora.layers import base_tensors
from bitvar.nn.linear import channels_last
from bitvar.scales import MAX_SCALES, MAX_SIDE, Grid
from bitvar.text import TextEncoder, is_position_index, load_text_encoder, refuse_foreign_files
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.digests import (
    MANIFEST,
    atomic_folder,
    load_tensors,
    merged_digest,
    read_card,
    read_object,
    read_weight_map,
    verify_folder,
    write_tensors,
)
from bitvar.weights.hub import require_model_folder
from bitvar.weights.official.names import OfficialBuffer
from bitvar.weights.vocabulary import VOCABULARY, Vocabulary, load_vocabulary

MAX_SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
GRIDS = "grids.json"
PARTS = ("transformer/", "image_tokenizer/", "text_encoder/")
"""The folders in a model folder that hold what computes."""
FILE_STEM = r"^\w[\w.-]*$"

M = TypeVar("M", InfinityTransformer, InfinityTokenizer)


Name = Annotated[str, Field(max_length=255)]
Digest = Annotated[str, Field(max_length=64)]


class TokenizerIdentity(Config):
    """Which tokenizer.

    Attributes:
        name: for people.
        sha256: digest of its tensors as they were first exported.
        encoder_of: the `sha256` of the tokenizer whose encoder, and so whose bits, it has: only its decoder is its own.
    """

    name: Name
    sha256: Digest
    encoder_of: Digest | None = None

    @property
    def bits_sha256(self) -> str:
        """Equal for tokenizers that make the same bits of the same image."""
        return self.encoder_of or self.sha256


CellSide = Annotated[int, Field(ge=1, le=2 * MAX_SIDE)]
Cells = tuple[CellSide, CellSide]
"""Rows and columns in the tokenizer's cells, of which a token has two at most on a side."""


class TrainedGrids(Config):
    """What a tokenizer folder's `grids.json` holds: cells of each scale, coarse to fine, one list a size trained on."""

    grids: tuple[Annotated[tuple[Cells, ...], Field(min_length=1, max_length=MAX_SCALES)], ...] = Field(max_length=1024)


class OfficialSpelling(Config):
    """How the official files a model was converted from are called and spell their names, to convert it back.

    Attributes:
        transformer_file, tokenizer_file: names of the files, without suffix.
        block_chunks, inner_names, transformer_buffers, tokenizer_buffers: see `OfficialLayout`.
    """

    transformer_file: str = Field(default="transformer", pattern=FILE_STEM)
    tokenizer_file: str = Field(default="tokenizer", pattern=FILE_STEM)
    block_chunks: int = Field(default=1, ge=1, le=256)
    inner_names: bool = True
    transformer_buffers: dict[Name, OfficialBuffer] = Field(default_factory=dict, max_length=1024)
    tokenizer_buffers: dict[Name, OfficialBuffer] = Field(default_factory=dict, max_length=1024)


Strength = Annotated[float, Field(ge=0, le=100)]
PerScale = Annotated[tuple[Strength, ...], Field(min_length=1, max_length=MAX_SCALES)]


class Defaults(Config):
    """Sampling settings a model was tuned for: one value, or one a scale."""

    guidance_scale: Strength | PerScale = 3.0
    temperature: Strength | PerScale = 1.0
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    top_p: float = Field(default=0.0, ge=0, le=1)


class ModelIndex(Config):
    """What `model_index.json` holds.

    Attributes:
        format: version of this layout.
        name: of the model, for people and for image metadata.
        tokenizer: the tokenizer the transformer was trained with.
        defaults: sampling settings.
        official: spelling of the files it was converted from.
    """

    format: Literal[1] = 1
    name: Name
    tokenizer: TokenizerIdentity
    defaults: Defaults = Defaults()
    official: OfficialSpelling | None = None


@dataclass
class Components:
    """A model in memory.

    The text encoder is absent from freshly converted official files until one is given. The digest is that of the
    parts it was read from (see `digest_of_parts`), and the other that of its `transformer/`; empty for a model that
    never was in a folder. The tokenizer is the one that the index names, unless another identity is given: one that
    makes the same bits. The vocabulary is what the model knows, where its folder says.
    """

    transformer: InfinityTransformer
    tokenizer: InfinityTokenizer
    text_encoder: TextEncoder | None
    index: ModelIndex
    card: str
    digest: str = ""
    transformer_digest: str = ""
    tokenizer_identity: TokenizerIdentity | None = None
    vocabulary: Vocabulary | None = None


def identify(name: str, tensors: Mapping[str, Tensor], code_norms: Sequence[float] = (1.0,)) -> TokenizerIdentity:
    """Identify a tokenizer by a digest over its tensors (name, shape, dtype, bytes) and any code norms other than 1."""
    sha256 = hashlib.sha256()
    if any(norm != 1 for norm in code_norms):
        sha256.update(f"{[float(norm) for norm in code_norms]}\n".encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        sha256.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha256.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return TokenizerIdentity(name=name, sha256=sha256.hexdigest())


def save_folder(components: Components, folder: Path) -> None:
    """Write a model folder, whole or not at all; one that exists is replaced only once the new one is complete."""
    with atomic_folder(folder) as temporary:
        save_component(components.transformer, temporary / "transformer")
        identity = components.tokenizer_identity or components.index.tokenizer
        save_component(components.tokenizer, temporary / "image_tokenizer", identity=identity)
        if components.text_encoder is not None:
            (temporary / "text_encoder").mkdir()
            components.text_encoder.save(temporary / "text_encoder")
        (temporary / "model_index.json").write_text(components.index.dump(), encoding="utf-8")
        (temporary / "README.md").write_text(components.card, encoding="utf-8")
        if components.vocabulary is not None:
            (temporary / VOCABULARY).write_text(components.vocabulary.dump(), encoding="utf-8")


def load_folder(folder: Path, *, dtype: torch.dtype, device: torch.device, tokenizer: Path | None = None) -> Components:
    """Read a model folder, every digest verified.

    Args:
        folder: of the model.
        dtype, device: to load it to.
        tokenizer: folder of another tokenizer, which makes the same bits.

    Raises:
        WeightsError: for missing, altered or unreadable files, or a tokenizer the transformer was not trained with.
    """
    require_model_folder(folder)
    refuse_pointers(folder)
    sums, own = verify_folder(folder), folder / "image_tokenizer"
    if tokenizer is not None:
        others = {name: value for name, value in sums.items() if not name.startswith("image_tokenizer/")}
        own = find_tokenizer(tokenizer)
        sums = others | {f"image_tokenizer/{name}": value for name, value in verify_part(own).items()}
    try:
        index = ModelIndex.load(folder / "model_index.json")
        identity = TokenizerIdentity.load(own / "identity.json")
        transformer_config = TransformerConfig.load(folder / "transformer" / "config.json")
        tokenizer_config = TokenizerConfig.load(own / "config.json")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    check_pair(index.tokenizer, identity)
    try:
        check_bits(transformer_config, tokenizer_config)
    except UsageError as error:
        raise WeightsError(str(error)) from None
    _check_schedules(index, transformer_config, folder)
    transformer = _load(InfinityTransformer, transformer_config, folder / "transformer", dtype, device)
    image_tokenizer = channels_last(_load(InfinityTokenizer, tokenizer_config, own, dtype, device))
    text = folder / "text_encoder"
    encoder = load_text_encoder(text, dtype=dtype).to(device) if text.is_dir() else None
    if encoder is not None:
        check_encoder(transformer_config, encoder, str(text))
    card = read_card(folder)
    digests = digest_of_parts(sums), merged_digest(sums, "transformer/")
    parts = transformer, image_tokenizer, encoder, index, card
    return Components(*parts, *digests, tokenizer_identity=identity, vocabulary=load_vocabulary(folder))


def digest_of_parts(sums: Mapping[str, str]) -> str:
    """The digest by which images name the model that drew them: of its parts, which alone compute.

    The index (the name, and default settings, which an image records itself), the vocabulary, the sizes that a
    tokenizer was trained on, the card and notes are not in it: a model that gains any of them draws the same images.
    """
    return merged_digest({name: value for name, value in sums.items() if not name.endswith(f"/{GRIDS}")}, PARTS)


def verify_part(folder: Path) -> dict[str, str]:
    """Verify a tokenizer or a text encoder that is given as a folder of its own.

    The manifest is the folder's own, or that of the model folder around it (`icons/text_encoder`). A text encoder as
    its makers publish it has none: its weights are read instead, and must be floating point and finite.

    Args:
        folder: an image tokenizer's or a text encoder's folder.

    Returns:
        The digest of every file of the part by its name in the folder; empty where there is no manifest.

    Raises:
        WeightsError: for a missing, altered or unlisted file, or unsound weights; and for a tokenizer without a
            manifest, which nobody can vouch for.
    """
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder}.", "it is missing, or no folder", "check the path")
    refuse_pointers(folder)
    if (folder / MANIFEST).is_file():
        return verify_folder(folder)
    around, name = folder.resolve().parent, folder.resolve().name
    if (around / MANIFEST).is_file() and any(key.startswith(f"{name}/") for key in read_object(around / MANIFEST)):
        return {key.removeprefix(f"{name}/"): value for key, value in verify_folder(around, part=name).items()}
    if (folder / "identity.json").exists():
        return verify_folder(folder)  # says that there is no manifest
    refuse_foreign_files(folder)
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = load_tensors(path)
        require_sound_weights({name: t for name, t in tensors.items() if not is_position_index(name, t)}, str(path))
    return {}


def check_pair(wanted: TokenizerIdentity, found: TokenizerIdentity) -> None:
    """Refuse a tokenizer that the transformer was not trained with: the pair would load, and make bad images.

    Raises:
        WeightsError: naming both, with their digests.
    """
    if wanted.bits_sha256 != found.bits_sha256:
        raise WeightsError(
            f"The tokenizer {found.name!r} does not belong to this transformer.",
            f"it was trained with {wanted.name!r} (sha256 {wanted.bits_sha256}), this one is sha256"
            f" {found.bits_sha256}",
            f"put the tokenizer {wanted.name!r} in image_tokenizer/",
        )


def check_bits(transformer: TransformerConfig, tokenizer: TokenizerConfig) -> None:
    """Refuse sizes that don't go together: a transformer predicts, and adds up, the very codes of its tokenizer.

    Raises:
        UsageError: naming both.
    """
    bits = tokenizer.bits * transformer.patch_size**2
    expected: dict[str, object] = {"bits": bits, "code_norms": tokenizer.code_norms}
    for name, value in expected.items():
        found = getattr(transformer, name)
        if found != value:
            raise UsageError(
                "This transformer does not fit this tokenizer.",
                f"its {name} is {_plain(found)}; for that tokenizer it must be {_plain(value)}",
                f"set model.{name}={_plain(value)}",
            )


def check_encoder(config: TransformerConfig, encoder: TextEncoder, source: str) -> None:
    """Refuse a text encoder whose features, or whose longest prompt, are not those that the transformer reads.

    Raises:
        WeightsError: naming both numbers.
    """
    if encoder.width != config.text_width:
        why = f"its features are {encoder.width} wide, the transformer reads {config.text_width}"
    elif encoder.max_tokens is not None and encoder.max_tokens < config.max_text_tokens:
        why = f"it reads {encoder.max_tokens} tokens, the transformer up to {config.max_text_tokens}"
    else:
        return
    raise WeightsError(
        f"The text encoder {source} does not belong to this transformer.",
        why,
        "give the encoder it was trained with, google/flan-t5-xl for the official models",
    )


def _check_schedules(index: ModelIndex, config: TransformerConfig, folder: Path) -> None:
    """Refuse a model without any schedule, and default settings that name another number of scales than it has."""
    schedules = config.all_schedules()
    if not schedules:
        why = "its transformer/config.json names no budgets and no schedules, so there is no size to draw"
        raise WeightsError(f"The model in {folder} has no schedule.", why, "restore the folder")
    for name in ("guidance_scale", "temperature"):
        value = getattr(index.defaults, name)
        wrong = [len(s) for s in schedules if isinstance(value, tuple) and len(value) not in (1, len(s))]
        if wrong:
            why = f"it has {len(value)} values, and the model draws in {wrong[0]} scales"
            todo = "correct it in model_index.json, or restore the folder"
            raise WeightsError(f"The default {name} of the model in {folder} can't be used.", why, todo)


def _plain(value: object) -> str:
    """As `--set` takes it."""
    return json.dumps(value, separators=(",", ":"))


def save_component(
    model: InfinityTransformer | InfinityTokenizer, folder: Path, *, identity: TokenizerIdentity | None = None
) -> None:
    """Write a model's configuration and weights, without adapters, in shards of at most 5 GB, into a new folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(model.config.dump(), encoding="utf-8")
    if identity is not None:
        (folder / "identity.json").write_text(identity.dump(), encoding="utf-8")
    save_tensors(base_tensors(model), folder)


def save_tokenizer_folder(
    tensors: dict[str, Tensor],
    config: TokenizerConfig,
    folder: Path,
    *,
    identity: TokenizerIdentity,
    grids: Sequence[Sequence[Grid]] = (),
) -> None:
    """Write a tokenizer by itself, whole or not at all.

    Args:
        tensors: its weights, written in the dtypes they have.
        config: its sizes.
        folder: to write.
        identity: which one it is.
        grids: cells of each scale, one list a size that it was trained on, if that is known.
    """
    with atomic_folder(folder) as temporary:
        save_tensors(tensors, temporary)
        (temporary / "config.json").write_text(config.dump(), encoding="utf-8")
        (temporary / "identity.json").write_text(identity.dump(), encoding="utf-8")
        if grids:
            trained = TrainedGrids(grids=tuple(map(tuple, grids)))
            (temporary / GRIDS).write_text(trained.dump(), encoding="utf-8")


def find_tokenizer(folder: Path) -> Path:
    """Where the tokenizer lies in a model folder; a tokenizer folder is its own."""
    return folder / "image_tokenizer" if (folder / "model_index.json").is_file() else folder


def save_tensors(tensors: dict[str, Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as safetensors, with an index when they take more than one file."""
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_bytes
    )
    for filename, names in split.filename_to_tensors.items():
        write_tensors({name: tensors[name].contiguous() for name in names}, folder / filename)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The inverse of `save_tensors`; weights that no model can have are refused.

    Raises:
        WeightsError: for missing, unreadable or unsound weights.
    """
    index = folder / f"{WEIGHTS}.index.json"
    names = sorted(set(read_weight_map(index).values())) if index.is_file() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_tensors(folder / name)
    require_sound_weights(tensors, str(folder))
    return tensors


def load_component(cls: type[M], folder: Path) -> M:
    """A transformer or tokenizer from its own folder, in fp32 on the CPU."""
    config_class = TransformerConfig if cls is InfinityTransformer else TokenizerConfig
    try:
        config = config_class.load(folder / "config.json")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    return _load(cls, config, folder, torch.float32, torch.device("cpu"))


def load_tokenizer(folder: Path) -> InfinityTokenizer:
    """Load a tokenizer from its own folder, in fp32 on the CPU."""
    return load_component(InfinityTokenizer, folder)


def _load(
    cls: type[M], config: TransformerConfig | TokenizerConfig, folder: Path, dtype: torch.dtype, device: torch.device
) -> M:
    try:
        check_room(config.least_parameters, folder, source=str(folder / "config.json"))
    except UsageError as error:
        raise WeightsError(str(error)) from None
    with torch.device("meta"):
        model = cls(config)  # type: ignore[arg-type]
    _assign(model, read_tensors(folder), str(folder), dtype, device)
    return model.eval().requires_grad_(False)


def _assign(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, dtype: torch.dtype, device: torch.device
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WeightsError(
            f"The weights in {source} don't fit their config.json.",
            f"{len(wrong)} tensors are missing, unexpected or misshapen: {', '.join(wrong[:20])}",
            "restore the folder",
        )
    model.load_state_dict(cast_weights(tensors, source, dtype=dtype, device=device), assign=True)
