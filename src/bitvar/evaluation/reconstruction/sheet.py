"""The sheet: a row for each image, with the original and every candidate's reconstruction, captions below."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from PIL import Image

from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid, fit_into

Row: TypeAlias = list[tuple[Image.Image, tuple[str, str]]]
"""Images of one size, each with two lines of text."""

_GROUPS: Final = ("best", "middle", "worst")
_EACH: Final = 3
_LARGE, _SMALL = 384, 192
"""Longer sides: larger images are reduced to the first, smaller ones magnified up to the second."""

_GAP, _NARROWEST, _WIDTH = 12, 168, 1500
_GREY: Final = "#dddddd"


def choose(count: int, wanted: int | None) -> list[tuple[int, str]]:
    """Choose the ranks to show, from the best image to the worst, each with a note.

    Args:
        count: Number of all images.
        wanted: Number of ranks, evenly spaced; None is three of the best, of the middle and of the worst.
    """
    if wanted is not None or count <= len(_GROUPS) * _EACH:
        shown = min(count, wanted if wanted is not None else count)
        return [(round(i * (count - 1) / max(1, shown - 1)), "") for i in range(shown)]
    starts = (0, (count - _EACH) // 2, count - _EACH)
    return [(start + i, f"{group}: ") for start, group in zip(starts, _GROUPS, strict=True) for i in range(_EACH)]


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw the rows on white, or on grey if an image is transparent; side by side where they are narrow.

    Images of at most 192 pixels a side are magnified by a whole number, every pixel a square; images of more than 384
    are reduced, and their captions say so.
    """
    drawn = [[_tile(image, *texts) for image, texts in row] for row in rows]
    images = [tile.image for row in drawn for tile in row]
    cell = max(_NARROWEST, *(image.width for image in images)), max(image.height for image in images)
    columns = max(len(row) for row in drawn)
    across = min(len(drawn), max(1, _WIDTH // ((columns + 1) * _GAP + columns * cell[0])))
    background = _GREY if any(image.mode == "RGBA" for image in images) else "white"
    style = GridStyle(gap=_GAP, group=columns, margin=_GAP, background=background, enlarge="never", caption_height=34)
    tiles = [tile for row in drawn for tile in (*row, *[None] * (columns - len(row)))]
    return draw_grid(tiles, columns=across * columns, cell=cell, style=style)


def _tile(image: Image.Image, title: str, text: str) -> Tile:
    longer, note = max(image.size), ""
    if longer > _LARGE:
        image, note = fit_into(image, (_LARGE, _LARGE), "never"), f", at {_LARGE / longer:.0%}"
    elif longer < _SMALL:
        image = fit_into(image, (_SMALL, _SMALL), "pixels")
    return Tile(image, [Caption(title), Caption(text + note, "#555555")])
