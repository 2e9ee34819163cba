"""The items that a benchmark scores: images with their own prompts, and the shuffled-prompt baseline."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage

_SHUFFLE_SEED: Final = 0


def matched(images: Sequence[GeneratedImage]) -> list[EvalItem]:
    """Pair every image with the prompt that it was made for."""
    return [EvalItem(image, image.prompt) for image in images]


def shuffled(images: Sequence[GeneratedImage]) -> list[EvalItem]:
    """Pair every image with another prompt of the same split and skill: the shuffled-prompt baseline.

    It gives the chance level of a model that draws well but ignores its prompt. Images of a split and skill with a
    single prompt are left out.
    """
    prompts = list({image.prompt.id: image.prompt for image in images}.values())
    groups: dict[tuple[str, str], list[EvalPrompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.split, prompt.skill), []).append(prompt)
    rng = np.random.default_rng(_SHUFFLE_SEED)
    other: dict[str, EvalPrompt] = {}
    for group in groups.values():
        order = [group[i] for i in rng.permutation(len(group))]
        if len(order) > 1:
            other |= {before.id: after for before, after in zip(order, order[1:] + order[:1], strict=True)}
    return [EvalItem(image, other[image.prompt.id]) for image in images if image.prompt.id in other]
