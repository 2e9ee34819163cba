"""Images in rows under headings, each with its prompt and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from bitvar.icons.dataset.prompts import SKILLS
from bitvar.imaging.open import ImageLimits, require_image

EACH: Final = 4
"""Right images in a row, and wrong ones."""

_SIDE, _GAP, _LINE, _MARGIN = 192, 14, 15, 20
_RIGHT, _WRONG, _NEUTRAL = "#1a7f37", "#c0392b", "#666666"
_PROMPT_LINES, _NOTE_LINES = 3, 3
_LIMITS: Final = ImageLimits(min_side=1, max_ratio=64.0)


@dataclass(frozen=True)
class Cell:
    """An image with its texts; `right` colours the note, None leaves it grey."""

    image: Image.Image
    title: str
    note: str
    right: bool | None = None


@dataclass(frozen=True)
class SheetRow:
    """Images side by side under a heading."""

    heading: str
    cells: Sequence[Cell]


def example_rows(label: str, verdicts: Sequence[Mapping[str, Any]], root: Path) -> list[SheetRow]:
    """For every skill some right images and some wrong ones, evenly from all splits.

    Args:
        label: of the contender.
        verdicts: its lines.
        root: folder that the names of images are relative to.
    """
    rows = []
    for skill in SKILLS:
        chosen = [line for line in verdicts if line["skill"] == skill]
        right, wrong = ([line for line in chosen if line["right"] is truth] for truth in (True, False))
        cells = [_example(line, root) for line in (*_evenly(right), *_evenly(wrong))]
        if cells:
            share = f"{len(right)} of {len(chosen)} right"
            rows.append(SheetRow(f"{label}: {skill.replace('_', ' ')}, {share}", cells))
    return rows


def _evenly(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    count = min(EACH, len(lines))
    return [lines[(2 * i + 1) * len(lines) // (2 * count)] for i in range(count)]


def _example(line: Mapping[str, Any], root: Path) -> Cell:
    image = require_image(root / line["image"], _LIMITS, todo="make that image again")
    said = "right" if line["right"] else "; ".join(line["reasons"]) or "wrong"
    return Cell(image, line["prompt"], f"{line['split'].replace('_', ' ')}: {said}", line["right"])


def draw_rows(rows: Sequence[SheetRow]) -> Image.Image:
    """The rows on white. Small images are magnified by a whole number, every pixel a square; larger ones reduced."""
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
            for text in wrapped(cell.title, font, width=_SIDE, most=_PROMPT_LINES):
                draw.text((x, y), text, fill="black", font=font)
                y += _LINE
            colour = {True: _RIGHT, False: _WRONG, None: _NEUTRAL}[cell.right]
            for text in wrapped(cell.note, font, width=_SIDE, most=_NOTE_LINES):
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


def wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, *, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels, if words let them; dots where there are more than `most`."""
    lines, line = [], ""
    for word in _ascii(text).split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][:-2]}.."]


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
