"""Scoring by a number a network gives to image and prompt: what HPSv2, HPSv3 and ImageReward share."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from PIL import Image

from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, JudgeInfo, Score, Table
from bitvar.evaluation.generation.intervals import by_skill

ScoreImages = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[float]]
"""Scores of images, each by its prompt."""

_BATCH: Final = 8


class PreferenceBenchmark:
    """Means of a network's scores by skill, and their mean.

    Args:
        name: Name of the benchmark.
        prompts: Prompts to score by.
        score_images: Function that scores images.
        judge: The network, for reports.
        scale: Factor of the scores in reports.
    """

    def __init__(
        self,
        name: str,
        prompts: Sequence[EvalPrompt],
        score_images: ScoreImages,
        judge: JudgeInfo,
        *,
        scale: float = 1.0,
    ) -> None:
        self.name, self.judge = name, judge
        self._prompts, self._score_images, self._scale = prompts, score_images, scale

    def prompts(self) -> Sequence[EvalPrompt]:
        return self._prompts

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            images = [Image.fromarray(item.image.open()) for item in batch]
            values = self._score_images(images, [item.prompt.text for item in batch])
            for item, value in zip(batch, values, strict=True):
                yield item.graded(self._scale * float(value))

    def summarise(self, scores: Sequence[Score]) -> Table:
        return by_skill(scores)
