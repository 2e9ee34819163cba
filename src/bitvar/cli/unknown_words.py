"""The line that names words of a prompt which a model was never taught."""

from collections.abc import Iterable
from typing import Final

from bitvar.pipeline.unknown_words import unknown_words
from bitvar.weights.vocabulary import Vocabulary

MAX_LISTED: Final = 8


def note_unknown_words(prompts: Iterable[str], vocabulary: Vocabulary | None, model: str) -> str | None:
    """Write one line about unknown words; None if there are none, or the model doesn't list its vocabulary.

    Args:
        prompts: Prompts to check.
        vocabulary: Vocabulary of the model, if its folder has one.
        model: Name, folder or hub id by which `bitvar models info` finds the model.
    """
    words = {} if vocabulary is None else unknown_words(prompts, vocabulary)
    if not words:
        return None
    listed = [f"{word!r} (nearest: {', '.join(near)})" if near else repr(word) for word, near in words.items()]
    more = f", and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    unknown = f"Note: this model was never taught {', '.join(listed[:MAX_LISTED])}{more}, and draws something else."
    return f"{unknown} `bitvar models info {model}` lists its vocabulary."
