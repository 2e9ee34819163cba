"""GenEval 2 (Kamath et al., arXiv 2512.16853): questions about each image, scored softly (Soft-TIFA).

Its own script reads one image a prompt from a JSON file of paths, so the layout is `00000.png` and `image_paths.json`.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo, Row, Score, Table
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing, write_sidecar
from bitvar.evaluation.benchmarks.own_scorer import OwnScore, OwnScorer, uv_command
from bitvar.evaluation.benchmarks.prompt_sets import (
    SPLIT,
    FetchHint,
    PromptSet,
    numbered,
    read_field,
    read_json_lines,
)
from bitvar.evaluation.generation.intervals import bootstrap
from bitvar.files import write_text
from bitvar.metrics.scorers.answers import ChatAnswerer
from bitvar.metrics.scorers.folders import ScorerFolder

MODEL: Final = "Qwen/Qwen3-VL-8B-Instruct"
"""The network that the published scorer asks."""

PATHS: Final = "image_paths.json"
"""File beside the images, from prompts to absolute paths, which the published script takes."""

OVERALL_GM: Final = "Soft-TIFA GM"
OVERALL_AM: Final = "Soft-TIFA AM"

_HINT: Final = FetchHint(
    "geneval2_data.jsonl",
    "GenEval 2's data are CC BY-NC 4.0, so they are not in this package",
    "git clone https://github.com/facebookresearch/GenEval2",
)
_DIGITS: Final = {name: str(i) for i, name in enumerate(
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)}  # fmt: skip

Probability = Callable[[Image.Image, str, Sequence[str]], float]
"""Probability that the answer to a question about an image is one of several spellings."""


class GenEval2Layout:
    """Prompts and files of GenEval 2."""

    name: str = "geneval2"
    title: str = "GenEval 2 (arXiv 2512.16853)"
    images_per_prompt: int = 1

    def read_prompts(self, given: Path | None) -> PromptSet:
        if given is None:
            raise _HINT.error()
        return PromptSet(numbered(read_json_lines(given), str(given), read=_read), str(given))

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        names = [
            (prompt, i, prompt.id if count == 1 else f"{prompt.id}_{i}") for prompt in prompts for i in range(count)
        ]
        return [Drawing(prompt, i, f"{IMAGES}/{name}.png") for prompt, i, name in names]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        del count
        found = first_images(self.find(folder / IMAGES, prompts))
        write_text(folder / PATHS, json.dumps(_paths(found), indent=1))

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        found = []
        for prompt in prompts:
            number = 0
            if (only := images / f"{prompt.id}.png").is_file():
                found.append(GeneratedImage(prompt, 0, only))
            while (path := images / f"{prompt.id}_{number}.png").is_file():
                found.append(GeneratedImage(prompt, number, path))
                number += 1
        return found


def first_images(images: Sequence[GeneratedImage]) -> dict[str, GeneratedImage]:
    """Return the first image of each prompt by the prompt's id: all that the published script takes."""
    first: dict[str, GeneratedImage] = {}
    for image in images:
        first.setdefault(image.prompt.id, image)
    return first


def _paths(first: Mapping[str, GeneratedImage]) -> dict[str, str]:
    return {image.prompt.text: str(image.path.absolute()) for image in first.values()}


def _read(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    questions, skills = read_field(row, "vqa_list", list, place), read_field(row, "skills", list, place)
    if len(questions) != len(skills) or not all(isinstance(q, list) and len(q) == 2 for q in questions):
        read_field({"skills": None}, "skills", list, place)
    return read_field(row, "prompt", str, place), f"{read_field(row, 'atom_count', int, place)} atoms"


def spellings(question: str, answer: str) -> list[str]:
    """List the spellings of the right answer whose probabilities the published scorer adds up."""
    if not question.startswith("How many"):
        return ["Yes", "yes", " yes", " Yes"]
    digit = _DIGITS.get(answer, "other")
    return [answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", digit, f" {digit}"]


def geometric_mean(values: Sequence[float]) -> float:
    """Compute the geometric mean of probabilities; 0 if one of them is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


class GenEval2Benchmark:
    """Soft-TIFA with a network that answers questions.

    Args:
        prompts: Prompts with their questions.
        probability: Function that asks the network.
        judge: The network, for reports.
    """

    name: str = "geneval2"

    def __init__(self, prompts: Sequence[EvalPrompt], probability: Probability, judge: JudgeInfo) -> None:
        self._prompts, self._probability, self.judge = prompts, probability, judge

    def prompts(self) -> Sequence[EvalPrompt]:
        return self._prompts

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            image = Image.fromarray(item.image.open())
            questions = item.prompt.payload["vqa_list"]
            asked = [self._probability(image, question, spellings(question, answer)) for question, answer in questions]
            yield item.graded(geometric_mean(asked), answers=asked, skills=item.prompt.payload["skills"])

    def summarise(self, scores: Sequence[Score]) -> Table:
        return summarise_answers(scores)


def summarise_answers(scores: Sequence[Score]) -> Table:
    """Sum up: means per number of atoms (GM) and per skill of a question (AM), then GM and AM over all prompts."""
    rows = []
    counts = sorted(dict.fromkeys(score.skill for score in scores), key=lambda skill: int(skill.split()[0]))
    for atoms in counts:
        rows.append(_row(f"{atoms} (GM)", [score for score in scores if score.skill == atoms], _gm))
    asked: dict[str, list[float]] = {}
    for score in scores:
        for skill, value in zip(score.details["skills"], score.details["answers"], strict=True):
            asked.setdefault(skill, []).append(value)
    for skill in sorted(asked):
        mean = sum(asked[skill]) / len(asked[skill])
        rows.append(Row(SPLIT, f"{skill} (AM)", len(asked[skill]), len(scores), round(mean, 6), None, None))
    return Table([*rows, _row(OVERALL_AM, scores, _am), _row(OVERALL_GM, scores, _gm)], "%")


def _gm(score: Score) -> float:
    return score.score


def _am(score: Score) -> float:
    answers = score.details["answers"]
    return sum(answers) / len(answers)


def _row(name: str, scores: Sequence[Score], value: Callable[[Score], float]) -> Row:
    by_prompt: dict[str, list[float]] = {}
    for score in scores:
        by_prompt.setdefault(score.id, []).append(value(score))
    means = [sum(values) / len(values) for values in by_prompt.values()]
    low, high = bootstrap(means) if max(means) > min(means) else (None, None)
    return Row(SPLIT, name, len(means), len(scores), round(sum(means) / len(means), 6), low, high)


def chat_benchmark(
    prompts: Sequence[EvalPrompt], *, model: str = MODEL, device: str = "cpu", dtype: Any = None
) -> GenEval2Benchmark:
    """Load the network that the published scorer asks, or another one, through transformers.

    Raises:
        WeightsError: if it can't be loaded.
    """
    folder = ScorerFolder.find(model)
    answerer = ChatAnswerer(folder, device, **({} if dtype is None else {"dtype": dtype}))
    info = JudgeInfo(f"Soft-TIFA with {model} through transformers", folder.sha256)
    return GenEval2Benchmark(prompts, answerer.probability, info)


def own_scorer(
    images: Path, scratch: Path, prompts: Sequence[EvalPrompt], *, checkout: Path, prefix: Sequence[str] | None = None
) -> OwnScorer:
    """Make the command of the published `evaluation.py`, which asks Qwen3-VL-8B once a question.

    Args:
        images: Folder of the images.
        scratch: Folder for its input and results.
        prompts: Prompts of the images, in order.
        checkout: Clone of facebookresearch/GenEval2.
        prefix: Command that runs Python with its packages; None for an isolated environment of uv.
    """
    script, results = checkout / "evaluation.py", scratch / "score_lists.json"
    data, paths = scratch / "benchmark_data.jsonl", scratch / PATHS
    first = first_images(GenEval2Layout().find(images, prompts))
    scratch.mkdir(parents=True, exist_ok=True)
    write_sidecar(data, "".join(json.dumps(prompt.payload) + "\n" for prompt in prompts if prompt.id in first))
    write_text(paths, json.dumps(_paths(first), indent=1))
    python = prefix or uv_command(
        "3.11", ["torch", "torchvision", "accelerate", "transformers==4.57.0", "pillow", "tqdm", "scipy"]
    )
    argv = (*python, str(script), "--benchmark_data", str(data), "--image_filepath_data", str(paths),
            "--method", "soft_tifa_gm", "--output_file", str(results))  # fmt: skip

    def read() -> Iterator[OwnScore]:
        used = [prompt for prompt in prompts if prompt.id in first]
        for prompt, answers in zip(used, json.loads(results.read_bytes()), strict=True):
            details = {"answers": answers, "skills": prompt.payload["skills"]}
            yield OwnScore(prompt.id, 0, geometric_mean(answers), details=details)

    return OwnScorer("facebookresearch/GenEval2 evaluation.py", argv, read, needs=(script,), results=(results,))
