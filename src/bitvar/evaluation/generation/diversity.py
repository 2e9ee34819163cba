"""How much images of one prompt differ from seed to seed. Knows no models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.metrics.distances import Distance

_BATCH: Final = 16


@dataclass(frozen=True)
class Diversity:
    """Mean distances between images.

    Attributes:
        same_prompt: between two seeds of a prompt, mean over the pairs of each prompt and then over the prompts.
        other_prompt: between the first images of one prompt and of the next, which have nothing in common.
        num_prompts: prompts with two images or more.
    """

    same_prompt: float
    other_prompt: float
    num_prompts: int

    @property
    def ratio(self) -> float:
        """0 if a seed changes nothing; about 1 if it changes as much as another prompt."""
        return self.same_prompt / self.other_prompt


def measure_diversity(images: Mapping[str, Sequence[Float[Tensor, "3 H W"]]], distance: Distance) -> Diversity | None:
    """The diversity of images by prompt, in [-1, 1] and of one size; None without two prompts of two images.

    Args:
        images: of each prompt, one a seed.
        distance: between two images.
    """
    several = {prompt: list(seeds) for prompt, seeds in images.items() if len(seeds) > 1}
    if len(several) < 2:
        return None
    owners = [prompt for prompt, seeds in several.items() for _ in combinations(seeds, 2)]
    pairs = [pair for seeds in several.values() for pair in combinations(seeds, 2)]
    by_prompt: dict[str, list[float]] = {}
    for prompt, value in zip(owners, _distances(pairs, distance), strict=True):
        by_prompt.setdefault(prompt, []).append(value)
    same = [sum(values) / len(values) for values in by_prompt.values()]
    other = list(_distances(list(pairwise(seeds[0] for seeds in several.values())), distance))
    return Diversity(sum(same) / len(same), sum(other) / len(other), len(several))


def _distances(pairs: Sequence[tuple[Tensor, Tensor]], distance: Distance) -> Iterator[float]:
    with torch.inference_mode():
        for start in range(0, len(pairs), _BATCH):
            one, other = zip(*pairs[start : start + _BATCH], strict=True)
            yield from distance(torch.stack(one), torch.stack(other)).tolist()
