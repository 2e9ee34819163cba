"""Images in rows under headings, each with its prompt and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bitvar.icons.dataset.prompts import SKILLS
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid

EACH: Final = 4
"""Right images in a row, and wrong ones."""

_SIDE: Final = 192
_STYLE: Final = GridStyle(
    gap=14, margin=20, outline="#cccccc", enlarge="pixels", caption_height=90, caption_size=13, heading_height=30
)
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
    """Draw the rows on white. Small images are magnified by a whole number, larger ones reduced."""
    columns = max((len(row.cells) for row in rows), default=1)
    tiles: list[Tile | None] = []
    for row in rows:
        tiles += [_tile(cell) for cell in row.cells]
        tiles += [None] * (columns - len(row.cells))
    headings = [row.heading for row in rows]
    return draw_grid(tiles, columns=columns, cell=(_SIDE, _SIDE), style=_STYLE, headings=headings)


def _tile(cell: Cell) -> Tile:
    color = {True: _RIGHT, False: _WRONG, None: _NEUTRAL}[cell.right]
    captions = [Caption(cell.title, max_lines=_PROMPT_LINES), Caption(cell.note, color, max_lines=_NOTE_LINES)]
    return Tile(cell.image, captions)
