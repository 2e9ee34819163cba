"""Diversity: how much the images of a prompt differ from seed to seed, relative to images of other prompts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.metrics import MetricResult, short
from bitvar.imaging.batches import as_tensor
from bitvar.metrics.distances import Distance

_BATCH: Final = 16


@dataclass(frozen=True)
class Diversity:
    """Mean distances between images.

    Attributes:
        same_prompt: Distance between two seeds of a prompt; mean over the pairs of each prompt, then over the prompts.
        other_prompt: Distance between the first images of consecutive prompts, which have nothing in common.
        num_prompts: Number of prompts with two images or more.
    """

    same_prompt: float
    other_prompt: float
    num_prompts: int

    @property
    def ratio(self) -> float:
        """Ratio of the two: 0 if a seed changes nothing, about 1 if it changes as much as another prompt does."""
        return self.same_prompt / self.other_prompt


def measure_diversity(images: Mapping[str, Sequence[Float[Tensor, "3 H W"]]], distance: Distance) -> Diversity | None:
    """Measure the diversity of images in [-1, 1] of one size; None unless two prompts have two images.

    Args:
        images: Images of each prompt, one for each seed.
        distance: Distance between two images.
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


class DiversityMetric:
    """The diversity of a candidate's images.

    Args:
        distance: Distance between two images.
        device: Device of its network.
    """

    name: str = "diversity"

    def __init__(self, distance: Distance, device: torch.device | str) -> None:
        self.distance, self.device = distance, device

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        seeds = Counter(image.prompt.id for image in images)
        by_prompt: dict[str, list[Tensor]] = {}
        for image in images:
            if seeds[image.prompt.id] > 1:  # a single image has nothing to differ from
                by_prompt.setdefault(image.prompt.id, []).append(as_tensor([image.open()])[0].to(self.device))
        found = measure_diversity(by_prompt, self.distance)
        if found is None:
            return MetricResult({"ratio": None, "why": "it takes two images per prompt (--seeds 2)"})
        values = {"ratio": found.ratio, **asdict(found)}
        return MetricResult({key: short(value) for key, value in values.items()} | {"distance": self.distance.title})
