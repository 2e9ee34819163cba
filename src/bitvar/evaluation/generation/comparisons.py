"""The other measures of a contender's images: memorisation, diversity over seeds, and alignment with the prompt.

Each puts a module of mathematics to work on `Shown` images. It knows no verdicts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.data.samples import Sample, read_samples
from bitvar.evaluation.generation.diversity import measure_diversity
from bitvar.evaluation.generation.images import Shown
from bitvar.evaluation.generation.memorisation import ANY_SIZE, Neighbour, closeness, find_neighbours, thumbnails
from bitvar.evaluation.generation.metrics import Finding
from bitvar.evaluation.generation.sheet import Cell, SheetRow
from bitvar.icons.benchmark.alignment import AlignmentScorer, score_alignment
from bitvar.imaging.batches import as_tensor, in_batches
from bitvar.imaging.open import require_image
from bitvar.metrics.distances import Distance

_PAIRS: Final = 4
"""Images on the sheet, each beside the training image that it is nearest to."""

_AT_ONCE: Final = 16


class MemorisationMeasure:
    """The nearest training image of every image, split by split; the nearest pairs on the sheet.

    Args:
        data: the icon set; its training split is what models may have seen.
    """

    name: str = "memorisation"

    def __init__(self, data: Path) -> None:
        self.data = data
        self._training: tuple[list[Sample], Float[Tensor, "m f"]] | None = None

    def __call__(self, shown: Sequence[Shown]) -> Finding:
        if self._training is None:
            samples = read_samples(self.data, split="train")
            self._training = samples, thumbnails([sample.path for sample in samples])
        samples, training = self._training
        neighbours = find_neighbours(thumbnails([each.path for each in shown]), training)
        figures: dict[str, Any] = {"training_images": len(samples)}
        for split in dict.fromkeys(each.prompt.split for each in shown):
            found = closeness([near for near in neighbours if shown[near.image].prompt.split == split])
            figures[split] = {key: _short(value) for key, value in asdict(found).items()}
        # what was to be new and is not would be the worst of it
        unseen = [near for near in neighbours if shown[near.image].prompt.split in ("unseen", "held_out_style")]
        nearest = sorted(unseen or neighbours, key=lambda near: near.distance)[:_PAIRS]
        cells = [cell for near in nearest for cell in self._pair(shown, samples, near)]
        return Finding(figures, [SheetRow("nearest training images of held-out prompts", cells)])

    def _pair(self, shown: Sequence[Shown], samples: Sequence[Sample], near: Neighbour) -> list[Cell]:
        mine, theirs = shown[near.image], samples[near.training]
        training = require_image(theirs.path, ANY_SIZE, todo="build the icon set anew")
        made = Image.fromarray(mine.open())
        return [
            Cell(made, mine.prompt.prompt, f"{mine.prompt.split.replace('_', ' ')}, made"),
            Cell(training, theirs.captions[0], f"in training, at {near.distance:.3f}"),
        ]


class DiversityMeasure:
    """How much the images of a prompt differ from seed to seed, beside how much those of two prompts do.

    Args:
        distance: between two images.
        device: of its network.
    """

    name: str = "diversity"

    def __init__(self, distance: Distance, device: torch.device | str) -> None:
        self.distance, self.device = distance, device

    def __call__(self, shown: Sequence[Shown]) -> Finding:
        seeds = Counter(each.prompt.id for each in shown)
        images: dict[str, list[Tensor]] = {}
        for each in shown:
            if seeds[each.prompt.id] > 1:  # an image alone has nothing to differ from
                images.setdefault(each.prompt.id, []).append(as_tensor([each.open()])[0].to(self.device))
        found = measure_diversity(images, self.distance)
        if found is None:
            return Finding({"ratio": None, "why": "it takes two images of a prompt (--seeds 2)"})
        figures = {"ratio": found.ratio, **asdict(found)}
        return Finding({key: _short(value) for key, value in figures.items()} | {"distance": self.distance.title})


class AlignmentMeasure:
    """How near images are to their prompts by two towers, and how many have their own prompt nearest.

    Args:
        scorer: the towers.
        device: of their networks.
    """

    name: str = "alignment"
    title: ClassVar[str] = "two towers over EfficientNet-lite0 and MiniLM"

    def __init__(self, scorer: AlignmentScorer, device: torch.device | str) -> None:
        self.scorer, self.device = scorer, device

    @torch.inference_mode()
    def __call__(self, shown: Sequence[Shown]) -> Finding:
        prompts = [each.prompt.prompt for each in shown]
        batches = (images.to(self.device) for images in in_batches((each.open() for each in shown), _AT_ONCE))
        found = score_alignment(self.scorer.of_images(batches), self.scorer.of_prompts(prompts), prompts)
        return Finding({key: _short(value) for key, value in asdict(found).items()} | {"network": self.title})


def _short(value: float | int) -> float | int:
    return float(f"{value:.6g}") if isinstance(value, float) else value
