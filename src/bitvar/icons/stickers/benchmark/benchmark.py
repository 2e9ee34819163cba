"""The stickers benchmark: whether a model draws what people ask a maker of stickers for, atom by atom.

Its prompts are fixed, its judge is in the package, and its real images are drawn from the sprites of the sticker set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.config import read_json
from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo, Row, Score, Table
from bitvar.evaluation.generation.intervals import MEAN, by_skill
from bitvar.icons.benchmark.judge import resize
from bitvar.icons.benchmark.pretrained_judge import open_square
from bitvar.icons.stickers.benchmark.judge import FOLDER, IMAGE_SIDE, StickerJudge, fold_of
from bitvar.icons.stickers.benchmark.prompts import StickerPrompt, read_prompts
from bitvar.icons.stickers.benchmark.references import reference_images
from bitvar.icons.stickers.benchmark.rules import ATOMS, Detections, judge_image
from bitvar.imaging.batches import as_tensor
from bitvar.weights.digests import MANIFEST, digest

METRICS: Final = "metrics.json"
ALL_HEADS: Final = -1
_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Judge:
    """What looks at images.

    Attributes:
        info: Name, digest and error rates.
        detect: Detects objects on images of 256 x 256 in [-1, 1], each by the head of a fold, or by all (-1).
    """

    info: JudgeInfo
    detect: Callable[[Float[Tensor, "b 3 256 256"], Sequence[int]], Sequence[Detections]]


class StickersBenchmark:
    """The fixed prompts of the sticker set, judged by detections.

    Args:
        judge: Judge of the images.
        references: Folder of the real images.
    """

    name: str = "stickers"

    def __init__(self, judge: Judge, references: Path) -> None:
        self.judge: JudgeInfo = judge.info
        self.references = references
        self._detect = judge.detect
        self._seen: dict[Path, Detections] = {}

    def prompts(self) -> Sequence[EvalPrompt]:
        """List the prompts in the package; the payload of each is its scene."""
        return eval_prompts()

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        """Judge every item; its details have the atoms of its prompt as kind, words, and whether the image shows it."""
        self._detect_all(items)
        for item in items:
            judgement = judge_image(self._seen[item.image.path], item.prompt.payload, item.prompt.skill)
            atoms = [[atom.kind, atom.says, atom.holds] for atom in judgement.atoms]
            yield item.judged(judgement.correct, judgement.reasons, atoms=atoms)

    def summarise(self, scores: Sequence[Score]) -> Table:
        """Compute shares of correct images by split and skill, and shares of atoms by split and by kind."""
        rows: list[Row] = []
        atoms = {row.split: row for row in by_skill([_of_atoms(score) for score in scores]).rows}
        table = by_skill(scores)
        for split in dict.fromkeys(row.split for row in table.rows):
            rows += [row for row in table.rows if row.split == split]
            if any(row.split == split and row.skill == MEAN for row in table.rows):
                rows.append(atoms[split])
        kinds = [each for kind in ATOMS for score in scores if (each := _of_kind(score, kind)) is not None]
        return Table([*rows, *(row for row in by_skill(kinds).rows if row.skill != MEAN)])

    def reference_images(self, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        """Find the real image of each prompt."""
        return reference_images(self.references, prompts)

    def _detect_all(self, items: Sequence[EvalItem]) -> None:
        """Detect objects on every file once, and keep the detections on the files of the last call."""
        by_path = {item.image.path: item.image for item in items}
        if by_path.keys() <= self._seen.keys():
            return
        images = list(by_path.values())
        seen: list[Detections] = []
        for start in range(0, len(images), _AT_ONCE):
            chunk = images[start : start + _AT_ONCE]
            pixels = torch.cat([resize(as_tensor([open_square(image)]), IMAGE_SIDE) for image in chunk])
            seen += self._detect(pixels, [self._head(image) for image in chunk])
        self._seen = dict(zip(by_path, seen, strict=True))

    def _head(self, image: GeneratedImage) -> int:
        """Choose the head that never learnt from the artist of a real image; all heads for other images."""
        return fold_of(image.prompt.payload.artist) if image.path.is_relative_to(self.references) else ALL_HEADS


def _of_atoms(score: Score) -> Score:
    atoms = score.details["atoms"]
    return replace(score, skill="atoms", score=sum(holds for _, _, holds in atoms) / len(atoms))


def _of_kind(score: Score, kind: str) -> Score | None:
    found = [holds for own, _, holds in score.details["atoms"] if own == kind]
    if not found:
        return None
    return replace(score, split="atoms", skill=f"{kind}_atom", score=sum(found) / len(found))


def eval_prompts() -> list[EvalPrompt]:
    """Convert the prompts in the package to those of a benchmark."""
    return [to_eval_prompt(prompt) for prompt in read_prompts()]


def to_eval_prompt(prompt: StickerPrompt) -> EvalPrompt:
    """Convert one prompt; its payload is its scene."""
    return EvalPrompt(prompt.id, prompt.prompt, prompt.split, prompt.skill, prompt.scene)


def load_judge(device: torch.device | str) -> Judge:
    """Load the judge in the package.

    Raises:
        WeightsError: if a file of it is missing or altered.
    """
    judge = StickerJudge.load(device=device)
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]] = read_json(FOLDER / METRICS)
    return Judge(JudgeInfo(FOLDER.name, digest(FOLDER / MANIFEST), metrics["by_skill"], metrics), judge.detect)
