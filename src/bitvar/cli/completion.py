"""What a shell completes after an option: names of models, presets and choices. Imports neither torch nor a model.

`bitvar --install-completion` installs it. The values are written out here, since the modules that define them load
torch; tests compare the two.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import typer
from typer.models import ArgumentInfo, OptionInfo

PACKAGED_MODELS: Final = ("icons",)
PACKAGED_TOKENIZERS: Final = ("general", "fine", "icons")
PRESETS: Final = ("125M", "361M", "940M", "2.2B", "2B", "4.7B", "8B", "8.8B", "20B")
QUALITIES: Final = ("sharp", "varied", "faithful")
FAST_WORDS: Final = ("auto", "exact", "off")
METHODS: Final = ("redraw", "localized", "inversion", "bit-test", "difference", "tilt")


def is_completing() -> bool:
    """Whether a shell asks for completions, and nothing is to be run."""
    return "_BITVAR_COMPLETE" in os.environ


def add_completions(app: typer.Typer) -> None:
    """Give the options and arguments of every command the function that completes their values.

    Args:
        app: The command with its groups. Values that a command completes by itself are left alone.
    """
    for path, callback in _callbacks(app, ""):
        for name, parameter in inspect.signature(callback).parameters.items():
            complete = _CHOICES.get(f"{path} {name}", _CHOICES.get(name))
            for info in getattr(parameter.annotation, "__metadata__", ()):
                if isinstance(info, OptionInfo | ArgumentInfo) and complete and info.autocompletion is None:
                    info.autocompletion = complete


def complete_model(incomplete: str) -> list[str]:
    """Complete the name of a model: in the package, or in the hub's cache. The shell adds files where none fits."""
    return _starting((*PACKAGED_MODELS, *_cached()), incomplete)


def complete_any_model(incomplete: str) -> list[str]:
    """Complete the name of a model or a tokenizer."""
    return _starting((*dict.fromkeys((*PACKAGED_MODELS, *PACKAGED_TOKENIZERS)), *_cached()), incomplete)


def complete_cached(incomplete: str) -> list[str]:
    """Complete the hub id of a model in the cache."""
    return _starting(_cached(), incomplete)


def _one_of(*values: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return _starting(values, incomplete)

    return complete


_CHOICES: Final[dict[str, Callable[[str], list[str]]]] = {
    "model": complete_model,
    "initial": complete_model,
    "tokenizer": complete_any_model,
    "text_encoder": _one_of("icons"),
    "control": _one_of("lines"),
    "device": _one_of("auto", "cpu", "cuda", "mps"),
    "dtype": _one_of("auto", "fp32", "bf16", "fp16"),
    "background": _one_of("auto", "transparent", "opaque"),
    "fast": _one_of(*FAST_WORDS),
    "quality": _one_of(*QUALITIES),
    "preset": _one_of(*PRESETS),
    "edit preset": _one_of("preserve", "text"),
    "edit method": _one_of(*METHODS),
    "fit model": _one_of(*PRESETS, *PACKAGED_MODELS),
    "models info name": complete_any_model,
    "models verify names": complete_any_model,
    "models pull name": complete_cached,
    "models rm name": complete_cached,
}
"""Functions by the name of the parameter, or by command and parameter where a command has other values."""


def _starting(values: tuple[str, ...], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


def _cached() -> tuple[str, ...]:
    """List the hub ids of the models of bitvar in the hub's cache, as `weights.hub_cache` does."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    found = {manifest.parts[-4] for manifest in cache.glob("models--*/snapshots/*/SHA256SUMS.json")}
    return tuple(sorted(name.removeprefix("models--").replace("--", "/", 1) for name in found))


def _callbacks(app: typer.Typer, path: str) -> Iterator[tuple[str, Callable[..., object]]]:
    for command in app.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{path} {name}".strip(), command.callback
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _callbacks(group.typer_instance, f"{path} {group.name or ''}".strip())
