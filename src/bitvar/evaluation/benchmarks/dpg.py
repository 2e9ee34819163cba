"""DPG-Bench (Hu et al., arXiv 2403.05135): long prompts, and yes-no questions about each image that depend on others.

Its folder has one file a prompt, of the prompt's name: four images in a grid of two by two, or a single image.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo, Row, Score, Table
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing
from bitvar.evaluation.benchmarks.own_scorer import OwnScore, OwnScorer, uv_command
from bitvar.evaluation.benchmarks.prompt_sets import PACKAGED, SPLIT, PromptSet, read_field, read_json_lines
from bitvar.evaluation.generation.intervals import bootstrap
from bitvar.files import atomic_path, read_plain
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.metrics.scorers.answers import BlipAnswerer
from bitvar.metrics.scorers.folders import ScorerFolder, digest_of_all, file_digest

MODEL: Final = "Salesforce/blip-vqa-capfilt-large"
"""A maintained network of the same kind as mPLUG, which the published scorer asks."""

SAMPLES: Final = "samples"
"""Folder of the single images, beside that of the grids."""

OVERALL: Final = "overall"
_SIDE: Final = 2  # images along a side of a grid
_FULL: Final = _SIDE * _SIDE

Answer = Callable[[Image.Image, str], str]
"""A network's answer to a question about an image, in lower case."""


class DpgLayout:
    """Prompts and files of DPG-Bench.

    Args:
        images_per_prompt: Number of images of a prompt, which is that of the images in a file: 4 or 1.
    """

    name: str = "dpg"
    title: str = "DPG-Bench (arXiv 2403.05135)"

    def __init__(self, images_per_prompt: int = _FULL) -> None:
        self.images_per_prompt: int = images_per_prompt

    def read_prompts(self, given: Path | None) -> PromptSet:
        if given is not None and given.is_dir():
            texts = {path.stem: read_plain(path).decode().strip() for path in sorted(given.glob("*.txt"))}
            if not texts:
                raise UsageError(f"{given} holds no prompts.", "it has no .txt files", "give dpg_bench/prompts of ELLA")
            rows = [{"id": name, "prompt": text} for name, text in texts.items()]
        else:
            rows = read_json_lines(given or PACKAGED / "dpg" / "prompts.jsonl")
        prompts = tuple(
            EvalPrompt(
                read_field(row, "id", str, "a prompt"), read_field(row, "prompt", str, "a prompt"), SPLIT, "prompt"
            )
            for row in rows
        )
        source = "TencentQQGYLab/ELLA (Apache-2.0), in the package" if given is None else str(given)
        return PromptSet(prompts, source)

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        if count not in (1, _FULL):
            why = "the published scorer cuts a file into four images, or takes it as one"
            raise UsageError(f"DPG-Bench can't take {count} images a prompt.", why, "draw 4, or 1")
        if count == 1:
            return [Drawing(prompt, 0, f"{IMAGES}/{prompt.id}.png") for prompt in prompts]
        return [Drawing(prompt, i, f"{SAMPLES}/{prompt.id}_{i}.png") for prompt in prompts for i in range(count)]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        for prompt in prompts if count == _FULL else ():
            target = folder / IMAGES / f"{prompt.id}.png"
            parts = [folder / SAMPLES / f"{prompt.id}_{i}.png" for i in range(count)]
            if target.is_file() and target.stat().st_mtime_ns >= max(part.stat().st_mtime_ns for part in parts):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            grid = _join([require_image(part, ImageLimits(min_side=1), todo="make that image again") for part in parts])
            with atomic_path(target) as temporary:
                grid.save(temporary, format="PNG")

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        found: list[GeneratedImage] = []
        for prompt in prompts:
            path = next((p for kind in ("png", "jpg") if (p := images / f"{prompt.id}.{kind}").is_file()), None)
            if path is not None:
                found += [GeneratedImage(prompt, number, path) for number in range(self.images_per_prompt)]
        return found


def _join(images: Sequence[Image.Image]) -> Image.Image:
    """Join four images of one size to a grid, row by row."""
    width, height = images[0].size
    grid = Image.new("RGB", (_SIDE * width, _SIDE * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % _SIDE * width, number // _SIDE * height))
    return grid


def cut(grid: Image.Image, number: int) -> Image.Image:
    """Cut one of four images out of a grid."""
    width, height = grid.width // _SIDE, grid.height // _SIDE
    left, top = number % _SIDE * width, number // _SIDE * height
    return grid.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class Question:
    """A yes-no question.

    Attributes:
        id: Its number among those of its prompt.
        text: Question.
        category: What it asks about, such as "entity - whole".
        parents: Numbers of the questions that must be answered with yes for this one to count.
    """

    id: int
    text: str
    category: str
    parents: tuple[int, ...]


def read_questions(path: Path) -> dict[str, list[Question]]:
    """Read `dpg_bench.csv`: the questions by the id of their prompt.

    Raises:
        UsageError: for a file that can't be used.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_plain(path).decode("utf-8-sig"))))
        questions: dict[str, list[Question]] = {}
        for row in rows:
            parents = tuple(number for part in row["dependency"].split(",") if (number := int(part)) != 0)
            category = row["tuple"].split("(")[0].strip()
            question = Question(int(row["proposition_id"]), row["question_natural_language"], category, parents)
            questions.setdefault(row["item_id"], []).append(question)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Can't read the questions {path}.", str(error), "give dpg_bench.csv of ELLA") from None
    except (KeyError, ValueError, AttributeError, TypeError, csv.Error) as error:
        why = f"it has no such column or a bad value: {error}"
        raise UsageError(f"{path} holds no questions of DPG-Bench.", why, "give dpg_bench.csv of ELLA") from None
    if not questions:
        raise UsageError(f"{path} holds no questions of DPG-Bench.", "it has no rows", "give dpg_bench.csv of ELLA")
    return questions


def score_answers(questions: Sequence[Question], answers: Mapping[int, bool]) -> float:
    """Compute the share of questions answered with yes whose parents are answered with yes too.

    As in the published scorer, questions are taken in order, and one that falls with its parent takes its own children
    with it.
    """
    counted = dict(answers)
    for question in questions:
        if any(not counted.get(parent, True) for parent in question.parents):
            counted[question.id] = False
    return sum(counted[question.id] for question in questions) / len(questions)


class DpgBenchmark:
    """DPG-Bench's rules with a network that answers questions.

    Args:
        prompts: Prompts.
        questions: Questions by the prompt's id.
        answer: Function that asks the network.
        judge: The network, for reports.
        grid: Whether a file holds four images.
    """

    name: str = "dpg"

    def __init__(
        self,
        prompts: Sequence[EvalPrompt],
        questions: Mapping[str, Sequence[Question]],
        answer: Answer,
        judge: JudgeInfo,
        *,
        grid: bool = True,
    ) -> None:
        missing = [prompt.id for prompt in prompts if not questions.get(prompt.id)]
        if missing:
            why = f"{len(missing)} of {len(prompts)} prompts have none: {', '.join(missing[:3])}"
            raise UsageError("The questions don't fit the prompts.", why, "give dpg_bench.csv of the same prompts")
        self._prompts, self._questions, self._answer, self.judge = prompts, questions, answer, judge
        self._grid = grid

    def prompts(self) -> Sequence[EvalPrompt]:
        return self._prompts

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            whole = Image.fromarray(item.image.open())
            image = cut(whole, item.image.seed) if self._grid else whole
            questions = self._questions[item.prompt.id]
            answers = {question.id: self._answer(image, question.text) == "yes" for question in questions}
            asked = [[question.category, answers[question.id]] for question in questions]
            yield item.graded(score_answers(questions, answers), answers=asked)

    def summarise(self, scores: Sequence[Score]) -> Table:
        return summarise_questions(scores)


def summarise_questions(scores: Sequence[Score]) -> Table:
    """Sum up: the share of yes by category, over all images and without regard to parents, then the score."""
    asked: dict[str, list[bool]] = {}
    for score in scores:
        for category, answer in score.details.get("answers", []):
            asked.setdefault(category.split("-")[0].strip(), []).append(answer)
    rows = [
        Row(
            SPLIT, category, len({score.id for score in scores}), len(scores), round(sum(yes) / len(yes), 6), None, None
        )
        for category, yes in sorted(asked.items())
    ]
    by_prompt: dict[str, list[float]] = {}
    for score in scores:
        by_prompt.setdefault(score.id, []).append(score.score)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    low, high = bootstrap(means) if max(means) > min(means) else (None, None)
    overall = Row(SPLIT, OVERALL, len(means), len(scores), round(sum(means) / len(means), 6), low, high)
    return Table([*rows, overall], "%")


def blip_benchmark(
    prompts: Sequence[EvalPrompt], *, questions: Path, model: str = MODEL, device: str = "cpu", grid: bool = True
) -> DpgBenchmark:
    """Load BLIP's visual question answering through transformers.

    Raises:
        WeightsError: if it can't be loaded.
    """
    asked = read_questions(questions)
    folder = ScorerFolder.find(model)
    answerer = BlipAnswerer(folder, device)
    digest = digest_of_all([folder.sha256, file_digest(questions)])
    title = f"DPG-Bench's rules with {model} through transformers; the published scorer asks mPLUG-large"
    return DpgBenchmark(prompts, asked, answerer.answer, JudgeInfo(title, digest), grid=grid)


def own_scorer(
    images: Path,
    scratch: Path,
    listed: Sequence[GeneratedImage],
    *,
    checkout: Path,
    prefix: Sequence[str] | None = None,
) -> OwnScorer:
    """Make the command of the published `compute_dpg_bench.py`, which asks mPLUG-large through modelscope and fairseq.

    Args:
        images: Folder of the grids.
        scratch: Folder for its results.
        listed: Its images, one or more.
        checkout: Clone of TencentQQGYLab/ELLA.
        prefix: Command that runs Python with its packages; None for an isolated environment of uv.
    """
    count = 1 + max(image.seed for image in listed)
    side = require_image(listed[0].path, ImageLimits(min_side=1), todo="make it again").width // (
        _SIDE if count > 1 else 1
    )
    script, results = checkout / "dpg_bench" / "compute_dpg_bench.py", scratch / "results.txt"
    python = prefix or uv_command(
        "3.10", ["torch<2.4", "torchvision", "accelerate", "numpy<2", "pandas", "pillow", "tqdm", "modelscope<1.19",
                 "fairseq",
                 "transformers<4.40", "timm", "ftfy", "unicodedata2", "zhconv", "rouge_score<=0.0.4", "rapidfuzz",
                 "opencv-python"],
    )  # fmt: skip
    argv = (*python, str(script), "--image-root-path", str(images), "--resolution", str(side), "--pic-num", str(count),
            "--csv", str(checkout / "dpg_bench" / "dpg_bench.csv"), "--res-path", str(results))  # fmt: skip

    def read() -> Iterator[OwnScore]:
        for line in results.read_text(encoding="utf-8").splitlines():
            path, *values = line.split(", ")
            if len(values) == count + 1:
                yield from (OwnScore(Path(path).stem, i, float(value)) for i, value in enumerate(values[:-1]))

    needs = (script, checkout / "dpg_bench" / "dpg_bench.csv")
    return OwnScorer("TencentQQGYLab/ELLA compute_dpg_bench.py", argv, read, needs=needs, results=(results,))
