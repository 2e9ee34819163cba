"""Conversion of official checkpoints to a model folder, and back to the same tensors, byte for byte."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from bitvar.errors import UsageError, WeightsError
from bitvar.finite import cast_weights, require_sound_weights
from bitvar.official_schedules import BUDGETS, OFFICIAL_STRIDE, official_schedules
from bitvar.sampling.params import SamplingParams
from bitvar.text import T5, TextEncoder, load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.digests import verify_folder
from bitvar.weights.identity import identify
from bitvar.weights.index import ModelIndex, OfficialSpelling
from bitvar.weights.instruction import InstructionSettings
from bitvar.weights.model_folder import Components, check_encoder, save_folder, save_tokenizer_folder
from bitvar.weights.official.files import read_official, write_official
from bitvar.weights.official.names import Converted, OfficialLayout, from_official, to_official
from bitvar.weights.tensors import read_tensors

PAIRS: Final = {
    "infinity_2b_reg": "infinity_vae_d32reg",
    "infinity_8b_weights": "infinity_vae_d56_f8_14_patchify",
    "infinity_8b_512x512_weights": "infinity_vae_d56_f8_14_patchify",
    "8b-512": "infinity_vae_d56_f8_14_patchify",
    "8b-1024": "infinity_vae_d56_f8_14_patchify",
}
"""The tokenizer that each published transformer was trained with. Another with as many bits would give bad images."""

TOKENIZERS: Final = {
    *(f"infinity_vae_{name}" for name in ("d16", "d24", "d32", "d32reg", "d64")),
    "infinity_vae_d56_f8_14_patchify",
}
"""The published tokenizers, by file name."""

DEFAULTS: Final = SamplingParams(guidance_scale=3.0, temperature=0.5, top_p=0.97).complete()
"""Sampling settings of the official notebooks."""

EDITORS: Final = {"8b-512": "0.25M", "8b-1024": "1M"}
"""Budgets of the published checkpoints of VAREdit, by file name: Infinity 8B, fine-tuned to edit by instructions."""

EDITOR_SETTINGS: Final = InstructionSettings(
    positions="official",
    square=True,
    defaults=SamplingParams(guidance_scale=3.0, temperature=0.1, top_p=0.97),
)
"""How VAREdit reads its source image, and the sampling settings that its page recommends."""

_BUDGET_512: Final = "0.25M"

M = TypeVar("M", InfinityTransformer, InfinityTokenizer)


def convert_to_folder(
    transformer: Path,
    tokenizer: Path,
    destination: Path,
    *,
    name: str | None = None,
    text_encoder: Path | None = None,
    budget: str | None = None,
    dtype: torch.dtype | None = None,
    instruction_editor: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Convert official files to a model folder. The files are only read.

    Args:
        transformer, tokenizer: Files or folders that `read_official` can read.
        destination: Folder to create; it must be missing or empty.
        name: Name of the model; None for the name of the transformer's file.
        text_encoder: Folder of the frozen text encoder, `google/flan-t5-xl` for the official models. None leaves the
            model without one, unable to read prompts.
        budget: Pixel budget that the transformer was trained on; None for 1M with the published sizes (0.25M if the
            file name contains 512x512, or is `8B-512` as VAREdit's), else 0.06M.
        dtype: Precision of the weights. None keeps each tensor's own, so that `convert_to_official` can restore the
            same bytes.
        instruction_editor: Whether the transformer edits images by instructions, as VAREdit does; None to go by the
            published file names (`EDITORS`), since the tensors don't tell.
        log: Function called with a line about everything that is left out, or chosen over an alternative.

    Raises:
        UsageError: for a destination in use or an unknown budget.
        WeightsError: for unreadable or incomplete files, or a pair that doesn't belong together.
    """
    _refuse_occupied(destination)
    check_names(transformer, tokenizer)
    model = _read(transformer, TransformerConfig, log)
    image_tokenizer = _read(tokenizer, TokenizerConfig, log)
    config, tokenizer_config = model.config, image_tokenizer.config
    assert isinstance(config, TransformerConfig)
    assert isinstance(tokenizer_config, TokenizerConfig)
    _check_bits(config, tokenizer_config, transformer, tokenizer)
    budget = budget or _default_budget(config, transformer)
    official_schedules((budget,))  # raises for an unknown budget before any work
    config = _with_budget(config, budget, transformer)
    encoder = _read_text_encoder(text_encoder, config, dtype) if text_encoder is not None else None
    name = name or _stem(transformer)
    index = ModelIndex(
        name=name,
        tokenizer=identify(_stem(tokenizer), image_tokenizer.tensors),
        defaults=DEFAULTS,
        official=OfficialSpelling(
            transformer_file=_stem(transformer),
            tokenizer_file=_stem(tokenizer),
            block_chunks=model.layout.block_chunks,
            inner_names=image_tokenizer.layout.inner_names,
            transformer_buffers=dict(model.layout.buffers),
            tokenizer_buffers=dict(image_tokenizer.layout.buffers),
        ),
    )
    if instruction_editor is None:
        instruction_editor = _stem(transformer).lower() in EDITORS
    components = Components(
        _assemble(InfinityTransformer, config, cast_weights(model.tensors, str(transformer), dtype=dtype)),
        _assemble(
            InfinityTokenizer, tokenizer_config, cast_weights(image_tokenizer.tensors, str(tokenizer), dtype=dtype)
        ),
        encoder,
        index,
        _card(index, transformer, tokenizer, text_encoder),
        instruction=EDITOR_SETTINGS if instruction_editor else None,
    )
    save_folder(components, destination)
    return destination


def convert_to_official(folder: Path, destination: Path) -> list[Path]:
    """Convert a model folder back to official files: the transformer flat, the tokenizer nested under `vae`.

    Names, shapes and bytes of the tensors equal those of the original files, unless `dtype` was given.

    Args:
        folder: Folder written by `convert_to_folder`. Every digest is verified.
        destination: Folder to create; it must be missing or empty.

    Returns:
        Paths of the two files.

    Raises:
        UsageError: for a destination in use, or a model that was not converted from official files.
        WeightsError: for missing or altered files.
    """
    _refuse_occupied(destination)
    if not (folder / "model_index.json").is_file():
        raise UsageError(f"{folder} is not a model folder.", "it has no model_index.json", "give one made by bitvar")
    verify_folder(folder)
    try:
        spelling = ModelIndex.load(folder / "model_index.json").official
        config = TransformerConfig.load(folder / "transformer" / "config.json")
        tokenizer_config = TokenizerConfig.load(folder / "image_tokenizer" / "config.json")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    if spelling is None:
        raise UsageError(
            f"{folder} can't be converted to official files.",
            "it was not converted from official files, so its index doesn't record their names",
            "give a folder that `bitvar convert` made",
        )
    destination.mkdir(parents=True, exist_ok=True)
    transformer = destination / f"{spelling.transformer_file}.pth"
    same = spelling.transformer_file.lower() == spelling.tokenizer_file.lower()
    tokenizer = destination / f"{spelling.tokenizer_file}{'_tokenizer' if same else ''}.pth"
    layout = OfficialLayout(spelling.block_chunks, buffers=spelling.transformer_buffers)
    write_official(to_official(config, read_tensors(folder / "transformer"), layout), transformer)
    layout = OfficialLayout(inner_names=spelling.inner_names, buffers=spelling.tokenizer_buffers)
    tensors = to_official(tokenizer_config, read_tensors(folder / "image_tokenizer"), layout)
    write_official(tensors, tokenizer, nesting=("vae",))
    return [transformer, tokenizer]


def convert_tokenizer(
    path: Path,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Convert an official tokenizer to a tokenizer folder, for encoding or further training.

    Args:
        path: File or folder that `read_official` can read; it is only read.
        destination: Folder to create; it must be missing or empty.
        dtype: Precision of the weights; None keeps each tensor's own.
        log: Function called with a line about everything that is left out, or chosen over an alternative.

    Raises:
        UsageError: for a destination in use.
        WeightsError: for an unreadable or incomplete file.
    """
    _refuse_occupied(destination)
    converted = _read(path, TokenizerConfig, log)
    identity = identify(_stem(path), converted.tensors)
    tensors = cast_weights(converted.tensors, str(path), dtype=dtype)
    model = _assemble(InfinityTokenizer, converted.config, tensors)
    patch = OFFICIAL_STRIDE // model.config.stride  # side, in cells, of a transformer's token
    grids = [schedule.latent_grids(patch) for schedule in official_schedules(tuple(BUDGETS))]
    save_tokenizer_folder(model.state_dict(), model.config, destination, identity=identity, grids=grids)
    return destination


def is_official_tokenizer(path: Path) -> bool:
    """Whether a file is an official tokenizer, by its name or, if that is not a published one, by its tensors.

    Raises:
        WeightsError: for an unreadable file.
    """
    name = _stem(path).lower()
    if name in TOKENIZERS or name in PAIRS:
        return name in TOKENIZERS
    return from_official(read_official(path), source=str(path)).kind == "tokenizer"


def check_names(transformer: Path, tokenizer: Path) -> None:
    """Refuse a published tokenizer that a published transformer was not trained with, by their file names.

    Files with other names are accepted here; `convert_to_folder` still compares their bits.

    Raises:
        WeightsError: if the two don't match; it names the right tokenizer.
    """
    right, given = PAIRS.get(_stem(transformer).lower()), _stem(tokenizer).lower()
    if right is not None and given in TOKENIZERS and given != right:
        raise WeightsError(
            f"The tokenizer {_stem(tokenizer)} does not belong to {_stem(transformer)}.",
            f"it was trained with {right}; another tokenizer's bits mean something else, and would give bad images",
            f"give --tokenizer {right}.pth",
        )


def _check_bits(config: TransformerConfig, tokenizer: TokenizerConfig, model_path: Path, tokenizer_path: Path) -> None:
    bits = tokenizer.bits * config.patch_size**2
    if bits != config.bits:
        patches = f", {bits} in a patch of {config.patch_size}x{config.patch_size}" if config.patch_size > 1 else ""
        right = PAIRS.get(_stem(model_path).lower(), f"infinity_vae_d{config.bits // config.patch_size**2}")
        raise WeightsError(
            f"The tokenizer {tokenizer_path.name} does not belong to {model_path.name}.",
            f"the transformer predicts {config.bits} bits per token, but the tokenizer has {tokenizer.bits}{patches}",
            f"give the tokenizer it was trained with, such as {right}",
        )


def _read(
    path: Path, wanted: type[TransformerConfig] | type[TokenizerConfig], log: Callable[[str], None] | None
) -> Converted:
    tensors = read_official(path) if log is None else read_official(path, log=log)
    converted = from_official(tensors, source=str(path))
    require_sound_weights(converted.tensors, str(path))
    if not isinstance(converted.config, wanted):
        other = "transformer" if wanted is TransformerConfig else "tokenizer"
        raise WeightsError(
            f"{path} is a {converted.kind}.", f"a {other} is expected in its place", "swap the two paths"
        )
    return converted


def _assemble(
    cls: type[M],
    config: TransformerConfig | TokenizerConfig,
    tensors: dict[str, Tensor],
) -> M:
    with torch.device("meta"):
        model = cls(config)  # type: ignore[arg-type]
    model.requires_grad_(False)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _read_text_encoder(folder: Path, config: TransformerConfig, dtype: torch.dtype | None) -> TextEncoder:
    if not folder.is_dir():
        raise UsageError(f"There is no text encoder folder {folder}.", fix="check the path")
    settings = published_settings(folder) or T5
    encoder = load_text_encoder(folder, dtype=dtype or torch.float32, settings=settings)
    check_encoder(config, encoder, str(folder))
    return encoder


def _with_budget(config: TransformerConfig, budget: str, path: Path) -> TransformerConfig:
    """Add a budget to a configuration, and check it against the scales of that budget."""
    try:
        return TransformerConfig.parse(config.model_dump() | {"budgets": (budget,)}, source=f"the shapes of {path}")
    except UsageError as error:
        raise WeightsError(str(error)) from None


def _default_budget(config: TransformerConfig, path: Path) -> str:
    if "512x512" in path.name:
        return _BUDGET_512
    if (budget := EDITORS.get(_stem(path).lower())) is not None:
        return budget
    return "1M" if config.bits == 56 or (config.width, config.depth) == (2048, 32) else "0.06M"


def _stem(path: Path) -> str:
    """Return the stem of a file's name, or a folder's name, in characters that any file system accepts."""
    name = path.stem if path.suffix in (".pth", ".pt", ".bin", ".safetensors") else path.resolve().name
    return re.sub(r"[^\w.-]", "_", name).lstrip(".-") or "model"


def _refuse_occupied(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(
            f"{destination} exists already.", "nothing is overwritten", "remove it, or choose another place"
        )


def _card(index: ModelIndex, transformer: Path, tokenizer: Path, text_encoder: Path | None) -> str:
    text = f"`{text_encoder.name}`" if text_encoder is not None else "none yet; convert again with `--text-encoder`"
    code = f'from bitvar import InfinityPipeline\n\nInfinityPipeline.from_pretrained("{index.name}")("a cat")'
    return (
        f"# {index.name}\n\n"
        "Infinity (arXiv 2412.04431), converted by `bitvar convert` from the official files.\n\n"
        f"- transformer: `{transformer.name}`\n- image tokenizer: `{tokenizer.name}`\n- text encoder: {text}\n\n"
        f"```python\n{code}\n```\n"
    )
