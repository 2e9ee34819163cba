"""The line that names words of a prompt which a model was never taught."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bitvar.cli.from_record import in_cache
from bitvar.weights.hub import EMBEDDED_MODEL, resolve_model
from bitvar.weights.vocabulary import Vocabulary, load_vocabulary

SHOWN: Final = 8


def folder_of(source: str | Path | None) -> Path | None:
    """The folder of a model that has been loaded, as far as it can be told without asking the hub again."""
    if source is None:
        return EMBEDDED_MODEL
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    return in_cache(name) if "/" in name else resolve_model(name)


def unknown_words(prompts: Iterable[str], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Every word of the prompts that the model was never taught, with the nearest things that it knows."""
    found: dict[str, str] = {}
    for prompt in prompts:
        for word in vocabulary.unknown_words(prompt):
            found.setdefault(word.lower(), word)
    return {word: vocabulary.nearest(word) for word in found.values()}


def note(prompts: Iterable[str], source: str | Path | None) -> str | None:
    """One line about the words that the model was never taught; None if it knows all, or doesn't say what it knows."""
    folder = folder_of(source)
    vocabulary = None if folder is None else load_vocabulary(folder)
    words = {} if vocabulary is None else unknown_words(prompts, vocabulary)
    if not words:
        return None
    parts = [f"{word!r} (nearest: {', '.join(near)})" if near else repr(word) for word, near in words.items()]
    more = f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    named = f"Note: this model was never taught {', '.join(parts[:SHOWN])}{more}, and draws something else."
    return f"{named} `bitvar models info {source or EMBEDDED_MODEL.name}` lists what it knows."
