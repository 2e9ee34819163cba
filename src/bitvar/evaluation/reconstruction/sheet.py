"""The sheet: a row for each image, with the original and every candidate's reconstruction, captions below."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from PIL import Image, ImageDraw, ImageFont

Row: TypeAlias = list[tuple[Image.Image, tuple[str, str]]]
"""Images of one size, each with two lines of text."""

_GROUPS: Final = ("best", "middle", "worst")
_EACH: Final = 3
_LARGE, _SMALL = 384, 192
"""Longer sides: larger images are reduced to the first, smaller ones magnified up to the second."""

_GAP, _LINE, _NARROWEST, _WIDTH = 12, 17, 168, 1500


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
    """Draw the rows on white, side by side where they are narrow.

    Images of at most 192 pixels a side are magnified by a whole number, every pixel a square; images of more than 384
    are reduced, and their captions say so.
    """
    drawn = [[(*_fitted(image), text) for image, text in row] for row in rows]
    columns = max(len(row) for row in drawn)
    widths = [max(row[i][0].width for row in drawn if i < len(row)) for i in range(columns)]
    widths = [max(width, _NARROWEST) for width in widths]
    block = sum(widths) + columns * _GAP + _GAP
    across = min(len(drawn), max(1, _WIDTH // block))
    lines = [drawn[start : start + across] for start in range(0, len(drawn), across)]
    heights = [max(image.height for row in line for image, _, _ in row) + 2 * _LINE + 2 * _GAP for line in lines]
    sheet = Image.new("RGB", (across * block + _GAP, sum(heights) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    y = _GAP
    for line, height in zip(lines, heights, strict=True):
        for i, row in enumerate(line):
            x = _GAP + i * block
            for (image, note, (title, text)), width in zip(row, widths, strict=False):
                sheet.paste(image, (x, y))
                below = y + max(p.height for p, _, _ in row) + 4
                draw.text((x, below), _clipped(title, width, font), fill="black", font=font)
                draw.text((x, below + _LINE - 2), _clipped(text + note, width, font), fill="#555555", font=font)
                x += width + _GAP
        y += height
    return sheet


def _fitted(image: Image.Image) -> tuple[Image.Image, str]:
    longer = max(image.size)
    if longer > _LARGE:
        size = tuple(max(1, round(side * _LARGE / longer)) for side in image.size)
        return image.resize((size[0], size[1]), Image.Resampling.LANCZOS), f", at {_LARGE / longer:.0%}"
    scale = max(1, _SMALL // longer)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST), ""


def _clipped(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Shorten a text in the middle until it is at most `width` pixels wide."""
    shown = text.encode("ascii", "replace").decode()
    cut = len(shown)
    while font.getlength(shown) > width and cut > 4:
        cut -= 1
        shown = f"{text[: cut // 2]}..{text[len(text) - (cut - cut // 2) :]}".encode("ascii", "replace").decode()
    return shown
