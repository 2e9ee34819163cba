"""Words of prompts that a model was never taught, for a model whose folder lists its vocabulary."""

from collections.abc import Iterable

from bitvar.weights.vocabulary import Vocabulary


def unknown_words(prompts: Iterable[str], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Find every word that the model was never taught.

    Args:
        prompts: Prompts to check.
        vocabulary: Vocabulary of the model, such as `pipeline.components.vocabulary`.

    Returns:
        Each word as first written, with the nearest concepts that the model knows.
    """
    first_written: dict[str, str] = {}
    for prompt in prompts:
        for word in vocabulary.unknown_words(prompt):
            first_written.setdefault(word.lower(), word)
    return {word: vocabulary.nearest(word) for word in first_written.values()}
