"""HPSv3 (Ma et al., arXiv 2508.03789): human preference over twelve categories.

Its benchmark reads folders, one a category, in which each image has its prompt beside it: `00000.png` and `00000.txt`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing, write_sidecar
from bitvar.evaluation.benchmarks.own_scorer import OwnScorer, driven_scorer, uv_command
from bitvar.evaluation.benchmarks.prompt_sets import (
    SPLIT,
    FetchHint,
    PromptSet,
    read_field,
    read_json_lines,
    read_json_list,
)

_FOLDER_NAME: Final = re.compile(r"[^a-z0-9]+")
_HINT: Final = FetchHint(
    "a file of prompts with their categories",
    "they are in HPDv3, a data set of the hub, and this package doesn't hold them",
    "hf download MizzenAI/HPDv3 --repo-type dataset; write its benchmark's prompts as JSON lines"
    ' {"prompt": ..., "category": ...}',
)


class HpsV3Layout:
    """Prompts and folders of HPSv3."""

    name: str = "hpsv3"
    title: str = "HPSv3 (arXiv 2508.03789)"
    images_per_prompt: int = 1

    def read_prompts(self, given: Path | None) -> PromptSet:
        if given is None:
            raise _HINT.error()
        rows = read_json_list(given) if given.suffix == ".json" else read_json_lines(given)
        counts: dict[str, int] = {}
        prompts = []
        for number, row in enumerate(rows, 1):
            category, text = _read(row, f"entry {number} of {given}")
            prompts.append(EvalPrompt(f"{category}-{counts.get(category, 0):05d}", text, SPLIT, category))
            counts[category] = counts.get(category, 0) + 1
        return PromptSet(tuple(prompts), str(given))

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        return [Drawing(prompt, i, f"{IMAGES}/{_stem(prompt, i)}.png") for prompt in prompts for i in range(count)]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        for prompt in prompts:
            for number in range(count):
                write_sidecar(folder / IMAGES / f"{_stem(prompt, number)}.txt", prompt.text)

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        found = []
        for prompt in prompts:
            number = 0
            while (path := images / f"{_stem(prompt, number)}.png").is_file():
                found.append(GeneratedImage(prompt, number, path))
                number += 1
        return found


def _read(row: Any, place: str) -> tuple[str, str]:
    values: Mapping[str, Any] = row if isinstance(row, dict) else {}
    category = _FOLDER_NAME.sub("-", read_field(values, "category", str, place).lower()).strip("-")
    if not category:
        raise UsageError(f"Bad 'category' in {place}.", "it has no letter", "give the category's name")
    return category, read_field(values, "prompt", str, place)


def _stem(prompt: EvalPrompt, number: int) -> str:
    name = prompt.id.removeprefix(f"{prompt.skill}-")
    return f"{prompt.skill}/{name}" + (f"_{number}" if number else "")


def own_scorer(images: Sequence[GeneratedImage], scratch: Path, *, prefix: Sequence[str] | None = None) -> OwnScorer:
    """Make the command that scores images with the package hpsv3, a 7B network that needs a GPU.

    Args:
        images: Images to score.
        scratch: Folder for its input and results.
        prefix: Command that runs Python with the package; None for an isolated environment of uv.
    """
    python = prefix or uv_command("3.10", ["hpsv3==1.0.0", "transformers==4.45.2", "numpy<2"])
    return driven_scorer("the package hpsv3 1.0.0", "score_hpsv3.py", images, scratch, prefix=python)
