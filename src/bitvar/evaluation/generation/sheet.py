"""The sheet: images in rows under headings, each with its prompt and its errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from bitvar.evaluation.benchmarks.base import Score
from bitvar.imaging.open import ImageLimits, require_image

EACH: Final = 4
"""Number of best images in a row, and of worst ones."""

_SIDE, _GAP, _LINE, _MARGIN = 192, 14, 15, 20
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
    """Draw the rows on white; small images are magnified by a whole number, large ones reduced."""
    columns = max((len(row.cells) for row in rows), default=1)
    font, bold = ImageFont.load_default(13), ImageFont.load_default(18)
    below = (_PROMPT_LINES + _NOTE_LINES) * _LINE
    height = 2 * _LINE + _SIDE + below + _GAP
    sheet = Image.new("RGB", (2 * _MARGIN + columns * (_SIDE + _GAP), 2 * _MARGIN + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        top = _MARGIN + i * height
        draw.text((_MARGIN, top), _ascii(row.heading), fill="black", font=bold)
        for j, cell in enumerate(row.cells):
            x, y = _MARGIN + j * (_SIDE + _GAP), top + 2 * _LINE
            image = _fitted(cell.image)
            sheet.paste(image, (x, y))
            draw.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline="#cccccc")
            y += _SIDE + 4
            for text in wrapped(cell.title, font, width=_SIDE, max_lines=_PROMPT_LINES):
                draw.text((x, y), text, fill="black", font=font)
                y += _LINE
            colour = {True: _CORRECT, False: _INCORRECT, None: _NEUTRAL}[cell.correct]
            for text in wrapped(cell.note, font, width=_SIDE, max_lines=_NOTE_LINES):
                draw.text((x, y), text, fill=colour, font=font)
                y += _LINE
    return sheet


def _fitted(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer > _SIDE:
        width, height = (max(1, round(side * _SIDE / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    scale = _SIDE // longer
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, *, width: int, max_lines: int) -> list[str]:
    """Break a text into lines of at most `width` pixels where words allow it; dots replace lines beyond `max_lines`."""
    lines, line = [], ""
    for word in _ascii(text).split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    return lines if len(lines) <= max_lines else [*lines[: max_lines - 1], f"{lines[max_lines - 1][:-2]}.."]


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
