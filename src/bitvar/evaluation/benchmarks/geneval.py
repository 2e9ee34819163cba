"""GenEval (Ghosh et al., arXiv 2310.11513): six skills, judged by an object detector and a colour classifier.

Its folder is `00000/metadata.jsonl` and `00000/samples/0000.png` for each prompt. `geneval_rules.py` has the rules.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo, Score, Table
from bitvar.evaluation.benchmarks.geneval_rules import COLOURS, DetectedObject, judge, keep_objects
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing, seen_in_order, write_sidecar
from bitvar.evaluation.benchmarks.own_scorer import OwnScore, OwnScorer, uv_command
from bitvar.evaluation.benchmarks.prompt_sets import PACKAGED, PromptSet, numbered, read_field, read_json_lines
from bitvar.evaluation.generation.intervals import by_skill
from bitvar.metrics.scorers.clip import ClipColours
from bitvar.metrics.scorers.detector import Mask2FormerDetector, boxes_and_masks
from bitvar.metrics.scorers.folders import ScorerFolder, digest_of_all

_FOLDER: Final = PACKAGED / "geneval"
_SAMPLE: Final = re.compile(r"(\d+)\.png")

DETECTOR: Final = "facebook/mask2former-swin-small-coco-instance"
CLIP: Final = "openai/clip-vit-large-patch14"
"""The networks of the published scorer, as the hub has them for transformers."""

DetectObjects = Callable[[Image.Image], Mapping[str, Sequence[DetectedObject]]]
NameColours = Callable[[Image.Image, Sequence[DetectedObject], str], Sequence[str]]


class GenEvalLayout:
    """Prompts and folders of GenEval."""

    name: str = "geneval"
    title: str = "GenEval (arXiv 2310.11513)"
    images_per_prompt: int = 4

    def read_prompts(self, given: Path | None) -> PromptSet:
        path = given or _FOLDER / "evaluation_metadata.jsonl"
        prompts = numbered(read_json_lines(path), str(path), read=_read)
        return PromptSet(prompts, "djghosh13/geneval (MIT), in the package" if given is None else str(given))

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        return [Drawing(p, i, f"{IMAGES}/{p.id}/samples/{i:04d}.png") for p in prompts for i in range(count)]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        del count
        for prompt in prompts:
            write_sidecar(folder / IMAGES / prompt.id / "metadata.jsonl", json.dumps(prompt.payload))

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        found: list[GeneratedImage] = []
        for prompt in prompts:
            samples = images / prompt.id / "samples"
            numbers = {int(m[1]): path for path in samples.glob("*.png") if (m := _SAMPLE.fullmatch(path.name))}
            found += seen_in_order(numbers, prompt)
        return found


def _read(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    include = read_field(row, "include", list, place)
    for wanted in [*include, *row.get("exclude", [])]:
        read_field(wanted if isinstance(wanted, dict) else {}, "class", str, place)
        read_field(wanted, "count", int, place)
    return read_field(row, "prompt", str, place), read_field(row, "tag", str, place)


class GenEvalBenchmark:
    """GenEval's rules with a detector and a colour classifier.

    Args:
        prompts: Prompts to judge by.
        detect: Function from an image to its objects by class.
        name_colours: Function that names the colours of objects of an image.
        judge: What detects and classifies, for reports.
    """

    name: str = "geneval"

    def __init__(
        self, prompts: Sequence[EvalPrompt], detect: DetectObjects, name_colours: NameColours, judge: JudgeInfo
    ) -> None:
        self._prompts, self._detect, self._name_colours, self.judge = prompts, detect, name_colours, judge

    def prompts(self) -> Sequence[EvalPrompt]:
        return self._prompts

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            image = Image.fromarray(item.image.open())

            def colours(objects: Sequence[DetectedObject], name: str, image: Image.Image = image) -> Sequence[str]:
                return self._name_colours(image, objects, name)

            kept = keep_objects(self._detect(image), item.prompt.skill)
            correct, reasons = judge(item.prompt.payload, kept, colours)
            found = {name: [[*entry.box, entry.score] for entry in objects] for name, objects in kept.items()}
            yield item.judged(correct, reasons, objects=found)

    def summarise(self, scores: Sequence[Score]) -> Table:
        return by_skill(scores)


def mask2former_benchmark(
    prompts: Sequence[EvalPrompt], *, detector: str = DETECTOR, clip: str = CLIP, device: str = "cpu"
) -> GenEvalBenchmark:
    """Load the networks of the published scorer through transformers.

    Args:
        prompts: Prompts to judge by.
        detector: Folder or hub id of a Mask2Former for COCO's instances.
        clip: Folder or hub id of a CLIP.
        device: Device of both.

    Raises:
        WeightsError: if a network can't be loaded.
    """
    names = (_FOLDER / "object_names.txt").read_text(encoding="utf-8").split("\n")
    names = [name for name in names if name]
    folders = ScorerFolder.find(detector), ScorerFolder.find(clip)
    network = Mask2FormerDetector(folders[0], len(names), device)
    classifier = ClipColours(folders[1], COLOURS, device)

    def detect(image: Image.Image) -> dict[str, list[DetectedObject]]:
        objects: dict[str, list[DetectedObject]] = {}
        for seen in network(image):
            objects.setdefault(names[seen.label], []).append(DetectedObject(seen.box, seen.score, seen.mask))
        return objects

    def name_colours(image: Image.Image, objects: Sequence[DetectedObject], name: str) -> Sequence[str]:
        return classifier(image, boxes_and_masks(objects), name)

    title = f"GenEval's rules with {detector} and {clip} through transformers; not the published mmdet scorer"
    info = JudgeInfo(title, digest_of_all([folder.sha256 for folder in folders]))
    return GenEvalBenchmark(prompts, detect, name_colours, info)


def own_scorer(
    images: Path, scratch: Path, *, checkout: Path, weights: Path, prefix: Sequence[str] | None = None
) -> OwnScorer:
    """Make the command of the published `evaluate_images.py`, which needs CUDA, mmcv-full 1.7 and mmdet 2.

    Args:
        images: Folder in GenEval's layout.
        scratch: Folder for its results.
        checkout: Clone of djghosh13/geneval.
        weights: Folder with the detector's checkpoint, as its `download_models.sh` fetches it.
        prefix: Command that runs Python with its packages; None for an isolated environment of uv.
    """
    script, results = checkout / "evaluation" / "evaluate_images.py", scratch / "results.jsonl"
    python = prefix or uv_command(
        "3.9", ["torch==1.12.1", "torchvision==0.13.1", "mmcv-full==1.7.1", "mmdet==2.28.2", "open-clip-torch==2.20.0",
                "clip-benchmark==1.4.0", "pandas==1.5.3", "numpy==1.23.1"],
    )  # fmt: skip
    argv = (*python, str(script), str(images), "--outfile", str(results), "--model-path", str(weights))

    def read() -> Iterator[OwnScore]:
        for row in read_json_lines(results):
            correct = bool(row["correct"])
            reasons = tuple(text for text in str(row["reason"] or "").split("\n") if text)
            number = int(Path(row["filename"]).stem)
            yield OwnScore(Path(row["filename"]).parts[-3], number, float(correct), correct, reasons)

    return OwnScorer("djghosh13/geneval evaluate_images.py", argv, read, needs=(script, weights), results=(results,))
