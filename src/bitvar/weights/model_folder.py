"""Model folders: `model_index.json`, `transformer/`, `image_tokenizer/`, `text_encoder/`, `README.md`, digests.

Weights are safetensors, sharded above 5 GB. The classes to build are fixed here; a file cannot name one. The index
records the digest of the tokenizer that the transformer was trained with, and other tokenizers are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bitvar.config import check_room
from bitvar.errors import UsageError, WeightsError
from bitvar.file_kinds import refuse_pointers
from bitvar.finite import require_sound_weights
from bitvar.nn.linear import channels_last
from bitvar.scales import Grid
from bitvar.text import TextEncoder, is_position_index, load_text_encoder, refuse_foreign_files
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.digests import MANIFEST, atomic_folder, merged_digest, read_card, read_object, verify_folder
from bitvar.weights.hub import require_model_folder
from bitvar.weights.identity import TokenizerIdentity, check_bits, check_pair
from bitvar.weights.index import GRIDS, ModelIndex, TrainedGrids
from bitvar.weights.instruction import INSTRUCTION, InstructionSettings, load_instruction_settings
from bitvar.weights.tensors import assign_tensors, base_tensors, load_tensors, read_tensors, save_tensors
from bitvar.weights.vocabulary import VOCABULARY, Vocabulary, load_vocabulary

PARTS = ("transformer/", "image_tokenizer/", "text_encoder/")
"""The folders of a model folder that determine its output."""

M = TypeVar("M", InfinityTransformer, InfinityTokenizer)


@dataclass
class Components:
    """A model in memory.

    Attributes:
        transformer: Transformer.
        tokenizer: Image tokenizer.
        text_encoder: Text encoder; None for freshly converted official files that came without one.
        index: Content of `model_index.json`.
        card: Text of the model card.
        digest: Digest of the parts that the model was read from (`digest_of_parts`); empty for a model that never was
            in a folder.
        transformer_digest: Digest of the folder `transformer/`; empty for a model that never was in a folder.
        tokenizer_identity: Identity of a tokenizer other than the index names, which makes the same bits; None for the
            one in the index.
        vocabulary: Concepts and words that the model knows, if its folder lists them.
        instruction: How the model reads a source image, if it is an instruction editor.
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
    instruction: InstructionSettings | None = None


def save_folder(components: Components, folder: Path) -> None:
    """Write a model folder atomically. An existing one is replaced only once the new one is complete."""
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
        if components.instruction is not None:
            (temporary / INSTRUCTION).write_text(components.instruction.dump(), encoding="utf-8")


def load_folder(folder: Path, *, dtype: torch.dtype, device: torch.device, tokenizer: Path | None = None) -> Components:
    """Read a model folder and verify every digest.

    Args:
        folder: Model folder.
        dtype: Precision of the model.
        device: Device of the model.
        tokenizer: Folder of another tokenizer that makes the same bits; None for the one in the model folder.

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
    return Components(
        transformer=transformer,
        tokenizer=image_tokenizer,
        text_encoder=encoder,
        index=index,
        card=read_card(folder),
        digest=digest_of_parts(sums),
        transformer_digest=merged_digest(sums, "transformer/"),
        tokenizer_identity=identity,
        vocabulary=load_vocabulary(folder),
        instruction=load_instruction_settings(folder),
    )


def digest_of_parts(sums: Mapping[str, str]) -> str:
    """Merge the digests of the parts that determine a model's output. Image records name a model by this digest.

    It leaves out the index (name and default settings, which an image records itself), the vocabulary, the sizes that
    the tokenizer was trained on, the card and notes. A model that gains any of them still generates the same images.
    """
    return merged_digest({name: value for name, value in sums.items() if not name.endswith(f"/{GRIDS}")}, PARTS)


def verify_part(folder: Path) -> dict[str, str]:
    """Verify a tokenizer or a text encoder that is given as a folder of its own.

    The manifest is the folder's own, or that of the model folder around it (`icons/text_encoder`). A text encoder as
    published by its authors has none: its weights are read instead, and must be floating point and finite.

    Args:
        folder: Folder of an image tokenizer or a text encoder.

    Returns:
        The digest of every file of the part by its name in the folder; empty where there is no manifest.

    Raises:
        WeightsError: for a missing, altered or unlisted file, unsound weights, or a tokenizer without a manifest, which
            can't be verified.
    """
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder}.", "it is missing, or no folder", "check the path")
    refuse_pointers(folder)
    if (folder / MANIFEST).is_file():
        return verify_folder(folder)
    parent, name = folder.resolve().parent, folder.resolve().name
    if (parent / MANIFEST).is_file() and any(key.startswith(f"{name}/") for key in read_object(parent / MANIFEST)):
        return {key.removeprefix(f"{name}/"): value for key, value in verify_folder(parent, part=name).items()}
    if (folder / "identity.json").exists():
        return verify_folder(folder)  # raises, since there is no manifest
    refuse_foreign_files(folder)
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = load_tensors(path)
        require_sound_weights({name: t for name, t in tensors.items() if not is_position_index(name, t)}, str(path))
    return {}


def check_encoder(config: TransformerConfig, encoder: TextEncoder, source: str) -> None:
    """Refuse a text encoder whose feature width or longest prompt does not match the transformer.

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
    """Refuse a model without a schedule, and default settings for a number of scales that no schedule has."""
    schedules = config.all_schedules()
    if not schedules:
        why = "its transformer/config.json names no budgets and no schedules, so there is no size to generate"
        raise WeightsError(f"The model in {folder} has no schedule.", why, "restore the folder")
    for name in ("guidance_scale", "temperature"):
        value = getattr(index.defaults, name)
        wrong = [len(s) for s in schedules if isinstance(value, tuple) and len(value) not in (1, len(s))]
        if wrong:
            why = f"it has {len(value)} values, and the model generates in {wrong[0]} scales"
            fix = "correct it in model_index.json, or restore the folder"
            raise WeightsError(f"The default {name} of the model in {folder} can't be used.", why, fix)


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
    """Write a tokenizer folder atomically.

    Args:
        tensors: Weights, which keep their dtypes.
        config: Sizes of the tokenizer.
        folder: Folder to write.
        identity: Identity of the tokenizer.
        grids: Rows and columns of cells at each scale, one list for each size it was trained on, if known.
    """
    with atomic_folder(folder) as temporary:
        save_tensors(tensors, temporary)
        (temporary / "config.json").write_text(config.dump(), encoding="utf-8")
        (temporary / "identity.json").write_text(identity.dump(), encoding="utf-8")
        if grids:
            trained = TrainedGrids(grids=tuple(map(tuple, grids)))
            (temporary / GRIDS).write_text(trained.dump(), encoding="utf-8")


def find_tokenizer(folder: Path) -> Path:
    """Locate the tokenizer of a model folder; a tokenizer folder is returned as it is."""
    return folder / "image_tokenizer" if (folder / "model_index.json").is_file() else folder


def load_component(cls: type[M], folder: Path) -> M:
    """Load a transformer or tokenizer from its own folder, in fp32 on the CPU."""
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
    assign_tensors(model, read_tensors(folder), str(folder), dtype=dtype, device=device)
    return model.eval().requires_grad_(False)
