"""The scenes benchmark: whether a model of the icon set draws what a prompt asks for.

Its prompts are fixed, its judge is in the package, its rules are GenEval's, and its reference images are those of the
set's split "scenes".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo, Score, Table
from bitvar.evaluation.generation.images import require_all
from bitvar.evaluation.generation.intervals import by_skill
from bitvar.icons.benchmark.pretrained_judge import CachedJudge, Judge
from bitvar.icons.dataset.prompts import ScenePrompt, read_prompts

HELD_OUT: Final = ("unseen", "held_out_style")
"""Splits whose prompts ask for something that training never shows."""


class ScenesBenchmark:
    """The fixed prompts of the icon set, judged by detections.

    Args:
        judge: Judge of the images.
        data: Icon set with the reference images.
    """

    name: str = "scenes"

    def __init__(self, judge: Judge, data: Path) -> None:
        self.judge: JudgeInfo = judge.info
        self.data = data
        self._decide, self._cache = judge.decide, CachedJudge(judge)

    def prompts(self) -> Sequence[EvalPrompt]:
        """List the prompts in the package; the payload of each is the scene that it asks for."""
        return eval_prompts()

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        """Judge every item by the rules of its skill."""
        detections = self._cache.detect([item.image for item in items])
        for item in items:
            decision = self._decide(detections[item.image.path], item.prompt.payload, item.prompt.skill)
            yield item.judged(decision.correct, decision.reasons)

    def summarise(self, scores: Sequence[Score]) -> Table:
        """Compute shares of correct images by split and skill."""
        return by_skill(scores)

    def reference_images(self, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        """Find the icon set's image of each prompt."""
        return reference_images(self.data, prompts)


def eval_prompts() -> list[EvalPrompt]:
    """Convert the prompts in the package to those of a benchmark."""
    return [to_eval_prompt(prompt) for prompt in read_prompts()]


def to_eval_prompt(prompt: ScenePrompt) -> EvalPrompt:
    """Convert one prompt; its payload is its scene."""
    return EvalPrompt(prompt.id, prompt.prompt, prompt.split, prompt.skill, prompt.spec)


def reference_images(data: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
    """Find the icon set's image of each prompt, in its split "scenes".

    Raises:
        UsageError: for a folder that is no icon set, or one built before the set had these prompts.
    """
    paths = _scene_paths(data)
    missing = [prompt.id for prompt in prompts if prompt.id not in paths]
    require_all(missing, len(prompts), f"{data} has no image in its split scenes")
    return [GeneratedImage(prompt, 0, data / paths[prompt.id]) for prompt in prompts]


def _scene_paths(data: Path) -> Mapping[str, str]:
    samples = data / "samples.jsonl"
    if not samples.is_file():
        why = "there is no samples.jsonl in it"
        raise UsageError(f"{data} is no icon set.", why, f"run: bitvar data icons {data} --still")
    with samples.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if '"prompt_id"' in line]
    if not rows:
        why, fix = "it was built by an earlier version", "build it anew in another folder: bitvar data icons"
        raise UsageError(f"{data} has no split scenes.", why, fix)
    return {row["prompt_id"]: row["image_path"] for row in rows}
