"""The sheet: images in rows under headings, each with its prompt and its errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.evaluation.benchmarks.base import Score
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid

EACH: Final = 4
"""Maximum number of best images in a row, and of worst ones."""

_SIDE: Final = 192
_STYLE: Final = GridStyle(
    gap=14, margin=20, outline="#cccccc", enlarge="pixels", caption_height=90, caption_size=13, heading_height=30
)
_CORRECT, _INCORRECT, _NEUTRAL = "#1a7f37", "#c0392b", "#666666"
_PROMPT_LINES, _NOTE_LINES = 3, 3
_LIMITS: Final = ImageLimits(min_side=1, max_ratio=64.0)


@dataclass(frozen=True)
class Cell:
    """An image with its texts; `correct` colours the note, None leaves it grey."""

    image: Image.Image
    title: str
    note: str
    correct: bool | None = None


@dataclass(frozen=True)
class SheetRow:
    """Images side by side under a heading."""

    heading: str
    cells: Sequence[Cell]


def example_rows(label: str, scores: Sequence[Score], root: Path) -> list[SheetRow]:
    """Choose, for every skill, some of the best and some of the worst images, evenly over all splits.

    Where a judge decides, these are correct and incorrect images.

    Args:
        label: Label of the candidate.
        scores: Scores of the candidate.
        root: Folder that the paths of images are relative to.
    """
    rows = []
    for skill in dict.fromkeys(score.skill for score in scores):
        chosen = [score for score in scores if score.skill == skill]
        best, worst, result = _best_and_worst(chosen)
        cells = [_example(score, root) for score in (*best, *worst)]
        rows.append(SheetRow(f"{label}: {skill.replace('_', ' ')}, {result}", cells))
    return rows


def _best_and_worst(scores: Sequence[Score]) -> tuple[Sequence[Score], Sequence[Score], str]:
    if all(score.correct is not None for score in scores):
        correct, incorrect = ([score for score in scores if score.correct is truth] for truth in (True, False))
        return _evenly(correct), _evenly(incorrect), f"{len(correct)} of {len(scores)} correct"
    ranked = sorted(scores, key=lambda score: score.score, reverse=True)
    half = min(EACH, len(ranked) // 2)
    mean = sum(score.score for score in scores) / len(scores)
    return ranked[: len(ranked) - half][:EACH], ranked[len(ranked) - half :], f"mean {mean:.4g}"


def _evenly(scores: Sequence[Score]) -> list[Score]:
    count = min(EACH, len(scores))
    return [scores[(2 * i + 1) * len(scores) // (2 * count)] for i in range(count)]


def _example(score: Score, root: Path) -> Cell:
    image = require_image(root / score.image, _LIMITS, todo="make that image again")
    reasons = "; ".join(score.reasons)
    if score.correct is None:
        said = f"{score.score:.4g}" + (f": {reasons}" if reasons else "")
    else:
        said = "correct" if score.correct else reasons or "incorrect"
    return Cell(image, score.prompt, f"{score.split.replace('_', ' ')}: {said}", score.correct)


def draw_rows(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw the rows on white. Small images are magnified by a whole number, larger ones reduced."""
    columns = max((len(row.cells) for row in rows), default=1)
    tiles: list[Tile | None] = []
    for row in rows:
        tiles += [_tile(cell) for cell in row.cells]
        tiles += [None] * (columns - len(row.cells))
    headings = [row.heading for row in rows]
    return draw_grid(tiles, columns=columns, cell=(_SIDE, _SIDE), style=_STYLE, headings=headings)


def _tile(cell: Cell) -> Tile:
    color = {True: _CORRECT, False: _INCORRECT, None: _NEUTRAL}[cell.correct]
    captions = [Caption(cell.title, max_lines=_PROMPT_LINES), Caption(cell.note, color, max_lines=_NOTE_LINES)]
    return Tile(cell.image, captions)
