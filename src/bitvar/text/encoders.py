"""Frozen text encoders, which turn prompts into a `TextCondition`. No other model file imports transformers.

Only a T5 needs transformers, which takes seconds to import.

The registry of encoders is closed: a folder names one of the kinds listed here, never a class to import.
"""

import contextlib
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import torch
from jaxtyping import Float
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bitvar.condition import TextCondition
from bitvar.config import Config, read_json
from bitvar.errors import UsageError, WeightsError, explain
from bitvar.files import is_lfs_pointer
from bitvar.finite import require_no_overflow, require_sound_weights
from bitvar.text.bert import BertEncoder, load_bert
from bitvar.text.files import (
    BertSizes,
    EncoderSizes,
    check_vocabulary,
    read_sizes,
    read_weights,
    refuse_foreign_files,
    sizes_of,
)
from bitvar.text.prompt_tokenizer import PromptTokenizer


class TextEncoderConfig(Config):
    """The content of `text_encoder/bitvar.json`.

    Attributes:
        kind: Name in the registry.
        hidden_states: Indices of the hidden states to concatenate, where 0 is the embeddings. Unused by T5.
    """

    kind: Annotated[str, Field(max_length=64)]
    hidden_states: tuple[Annotated[int, Field(ge=0, le=256)], ...] = Field(default=(), max_length=257)


T5: Final = TextEncoderConfig(kind="t5")
MINILM: Final = TextEncoderConfig(kind="minilm", hidden_states=(1, 6))
"""Settings for encoders as published by their authors: flan-t5-xl and similar ones, and all-MiniLM-L6-v2."""


class TextEncoder(ABC):
    """A frozen encoder with its vocabulary.

    Args:
        model: Network that computes the features.
        tokenizer: Vocabulary, which turns a prompt into token ids.
        hidden_states: Indices of the hidden states to concatenate, if the kind does that.
    """

    kind: str

    def __init__(self, model: nn.Module, tokenizer: PromptTokenizer, hidden_states: tuple[int, ...]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.hidden_states = hidden_states

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hooks that transformers installs when a model first runs: they can't be pickled or copied."""
        return {**self.__dict__, "model": _without_capturing_hooks(self.model)}

    @abstractmethod
    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]: ...

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, including special tokens."""
        return len(self.ids(prompt))

    def ids(self, prompt: str) -> list[int]:
        """Tokenise a prompt, including special tokens.

        Raises:
            WeightsError: if the vocabulary fails, gives no tokens, or gives one that the model has no embedding for.
        """
        try:
            ids = self.tokenizer(prompt)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise _bad_tokens(prompt, (str(error).splitlines() or [repr(error)])[0]) from None
        rows = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if not ids:
            raise _bad_tokens(prompt, "it gives no token at all")
        if not 0 <= min(ids) <= max(ids) < rows:
            raise _bad_tokens(prompt, f"it gives tokens {min(ids)} to {max(ids)}, but the model has only {rows}")
        return ids

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Encode prompts into features of their tokens, special tokens included. Padding is masked.

        The tokenizer is never configured to pad, so calls may run concurrently, and `save` writes it unchanged.
        """
        device = next(self.model.parameters()).device
        rows = [torch.tensor(self.ids(prompt)) for prompt in prompts]
        ids = pad_sequence(rows, batch_first=True).to(device)  # the padding value does not matter, since it is masked
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
        features = self._features(ids, mask)
        return TextCondition.from_list([row[keep.bool()] for row, keep in zip(features, mask, strict=True)])

    def to(self, device: torch.device) -> "TextEncoder":
        self.model.to(device)
        return self

    @property
    def width(self) -> int:
        """Number of channels of the features."""
        config: Any = self.model.config
        return int(config.hidden_size) * max(1, len(self.hidden_states))

    @property
    def max_tokens(self) -> int | None:
        """Maximum length of a prompt in tokens, including special tokens; None if there is no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def sizes(self) -> dict[str, Any]:
        """Return the sizes of the network, by the names of published `config.json` files."""
        return {name: getattr(self.model.config, name) for name in sizes_of(self.kind).model_fields}

    def save(self, folder: Path) -> None:
        """Write the configuration, the vocabulary and the weights to a folder.

        Raises:
            UsageError: for an encoder whose weights are not here (`OffloadedTextEncoder`).
        """
        if any(parameter.is_meta for parameter in self.model.parameters()):
            why = "its weights are dropped between prompts"
            raise UsageError("Can't save an offloaded text encoder.", why, "load the model without offloading it")
        with _quiet():
            self.model.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save(folder)
        settings = TextEncoderConfig(kind=self.kind, hidden_states=self.hidden_states)
        (folder / "bitvar.json").write_text(settings.dump(), encoding="utf-8")
        for path in folder.glob("*.safetensors"):  # the libraries leave them unreadable to other users
            path.chmod(stat.S_IMODE((folder / "bitvar.json").stat().st_mode))


class MiniLMEncoder(TextEncoder):
    """A small BERT-like sentence encoder (MiniLM). Its features are several hidden states, concatenated."""

    kind = "minilm"

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        states = self.model(ids, mask.bool())
        return torch.cat([states[index] for index in self.hidden_states], dim=-1)


class T5Encoder(TextEncoder):
    """A T5 encoder, as in the official models (flan-t5-xl).

    Its features are the last hidden state of every token, including the end token.
    """

    kind = "t5"

    def _features(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b t w"]:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


_REGISTRY: Final[dict[str, type[TextEncoder]]] = {"minilm": MiniLMEncoder, "t5": T5Encoder}


def load_text_encoder(
    folder: Path, *, dtype: torch.dtype = torch.float32, settings: TextEncoderConfig | None = None
) -> TextEncoder:
    """Load an encoder from a folder written by `TextEncoder.save` or by its authors. Nothing is downloaded.

    Args:
        folder: Folder with the configuration, the vocabulary and the safetensors weights.
        dtype: Precision of the weights and the computation.
        settings: Settings for a folder published by its authors (`T5`, `MINILM`). A `bitvar.json` takes precedence.

    Raises:
        WeightsError: for an unknown kind or unreadable files.
    """
    _require_plain_files(folder)
    try:
        if settings is None or (folder / "bitvar.json").is_file():
            settings = TextEncoderConfig.load(folder / "bitvar.json")
    except UsageError as error:
        raise WeightsError(str(error)) from None
    if settings.kind not in _REGISTRY:
        raise WeightsError(
            f"Unknown text encoder {settings.kind!r} in {folder}.",
            f"the known ones are {list(_REGISTRY)}",
            "upgrade bitvar",
        )
    refuse_foreign_files(folder)
    sizes = read_sizes(folder, settings.kind)
    check_vocabulary(folder, sizes)
    try:
        model, problems = _load_model(settings, sizes, folder, dtype)
        tokenizer = PromptTokenizer.load(folder)
    except WeightsError:
        raise
    except BaseException as error:  # a damaged file makes three libraries raise errors of many types
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # raised by libraries in Rust
            raise
        problems = str(error).splitlines()[0] if str(error) else repr(error)
        raise WeightsError(_unreadable(folder, problems)) from None
    if problems:
        raise WeightsError(_unreadable(folder, problems))
    encoder = _REGISTRY[settings.kind](model, tokenizer, settings.hidden_states)
    with _silenced():  # a broken vocabulary fails here, and the Rust library prints a traceback of its own
        encoder.ids("a")
    return encoder


def build_text_encoder(
    settings: TextEncoderConfig, sizes: Mapping[str, Any], vocabulary: str, *, special: Mapping[str, str]
) -> TextEncoder:
    """Build an encoder whose weights are not loaded yet.

    Args:
        settings: Kind and hidden states.
        sizes: Sizes of the network, as `TextEncoder.sizes` returns them.
        vocabulary: Content of a `tokenizer.json`.
        special: Special tokens of the vocabulary by their role, such as `pad_token`.

    Raises:
        UsageError: for an unknown kind or sizes out of range.
    """
    if settings.kind not in _REGISTRY:
        raise UsageError(f"Unknown text encoder {settings.kind!r}.", f"the known ones are {list(_REGISTRY)}")
    checked = sizes_of(settings.kind).parse(dict(sizes), source="the sizes of the text encoder")
    if isinstance(checked, BertSizes):
        model: nn.Module = BertEncoder(checked)
    else:
        from transformers.models.t5 import T5Config, T5EncoderModel

        model = T5EncoderModel(T5Config(**checked.model_dump()))
    tokenizer = PromptTokenizer(Tokenizer.from_str(vocabulary), dict(special))
    return _REGISTRY[settings.kind](model, tokenizer, settings.hidden_states)


def _bad_tokens(prompt: str, why: str) -> WeightsError:
    return WeightsError(
        f"The model's vocabulary can't read {prompt[:40]!r}.", why, "download or convert the model again"
    )


def _require_plain_files(folder: Path) -> None:
    """Refuse pipes, devices and Git LFS pointers before a library opens them."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            pointer = not path.is_dir() and is_lfs_pointer(path)
        except OSError as error:
            raise WeightsError(_unreadable(folder, f"{path.name}: {(error.strerror or str(error)).lower()}")) from None
        if pointer:
            why = f"{path.name} is a Git LFS pointer, not the file itself"
            raise WeightsError(f"Can't read the text encoder {folder}.", why, "run `git lfs pull` in the clone")


def published_settings(folder: Path) -> TextEncoderConfig | None:
    """Choose the settings for a folder published by its authors by its `model_type`; None if it is unknown."""
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except UsageError:
        return None  # `load_text_encoder` reports what is wrong
    return {"t5": T5, "bert": MINILM}.get(str(kind))


def _unreadable(folder: Path, why: str) -> str:
    return explain(f"Can't read the text encoder {folder}.", why, "download the model again")


def _load_model(
    settings: TextEncoderConfig, sizes: EncoderSizes, folder: Path, dtype: torch.dtype
) -> tuple[nn.Module, str]:
    """Build the model. Returns it with a description of any wrong weights, which would otherwise be left random."""
    tensors = read_weights(folder, leave_out=("decoder.", "lm_head.") if settings.kind == "t5" else ())
    require_sound_weights(tensors, str(folder))
    if isinstance(sizes, BertSizes):
        model, wrong = load_bert(sizes, tensors, dtype)
        if not all(0 <= k <= sizes.num_hidden_layers for k in settings.hidden_states or (-1,)):
            wrong.append(f"hidden_states {list(settings.hidden_states)} outside 0 to {sizes.num_hidden_layers}")
    else:
        model, wrong = _load_t5(sizes, tensors, dtype)
    if not wrong:
        require_no_overflow(tensors, model.state_dict(), str(folder))
    return model, ", ".join(wrong)


def _load_t5(sizes: EncoderSizes, tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    """Build a T5 encoder, as `load_bert` does a BERT.

    transformers receives the configuration and the tensors as objects, so it has no path or name to look up.
    """
    from transformers.models.t5 import T5Config, T5EncoderModel

    options: dict[str, Any] = {
        "dtype": dtype,
        "state_dict": dict(tensors),
        "attn_implementation": None,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported below, by name
    }
    with _quiet():
        loaded: Any = T5EncoderModel.from_pretrained(None, config=T5Config(**sizes.model_dump()), **options)
    model, info = loaded
    wrong = [f"{what}: {name}" for what in ("missing", "mismatched") for name in sorted(map(str, info[f"{what}_keys"]))]
    return model, wrong


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Discard what libraries write directly to the process's stderr."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what transformers says: progress bars, and warnings about the tensors that an encoder leaves unread."""
    if "transformers" not in sys.modules:
        yield
        return
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _without_capturing_hooks(module: nn.Module) -> nn.Module:
    """Rebuild a module around the same tensors without its capturing hooks: closures, which can't be pickled."""
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__ = {key: value for key, value in module.__dict__.items() if key != "_output_capturing_hooks_installed"}
    twin.__dict__["_forward_hooks"] = type(module._forward_hooks)(
        (key, hook)
        for key, hook in module._forward_hooks.items()
        if getattr(hook, "__module__", "") != "transformers.utils.output_capturing"
    )
    twin.__dict__["_modules"] = {
        name: None if child is None else _without_capturing_hooks(child) for name, child in module._modules.items()
    }
    return twin
