"""The one drawer of image grids: tiles in rows of equal cells, with captions below them and headings above rows.

It knows nothing of what the images are of. Whoever draws a sheet chooses its tiles, their captions and a `GridStyle`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bitvar.files import atomic_path
from bitvar.imaging.open import ImageLimits, decode_image

CONTACT_SHEET_IMAGES: Final = 64
"""Largest number of images on a contact sheet."""

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

_CAPTION_OFFSET: Final = 4
_OWN_FILES: Final = ImageLimits(min_side=1, max_ratio=math.inf)


@dataclass(frozen=True)
class Caption:
    """A text below an image, wrapped to the width of the cell.

    Attributes:
        text: The text. Characters outside ASCII are drawn as question marks, since the font lacks most of them.
        color: Name or "#rrggbb".
        max_lines: Number of lines the text may take. A longer text is cut: in the middle if it may take one line, at
            the end otherwise.
    """

    text: str
    color: str = "black"
    max_lines: int = 1


@dataclass(frozen=True)
class Tile:
    """An image and the captions below it, top to bottom."""

    image: Image.Image
    captions: Sequence[Caption] = ()


@dataclass(frozen=True)
class GridStyle:
    """The looks of a grid. All lengths are in pixels.

    Attributes:
        gap: Distance between neighbouring cells.
        group: Number of neighbouring columns that belong together, with twice the gap between groups; 0 for no groups.
        margin: Distance from the outer cells to the edge of the sheet.
        background: Color of the sheet.
        outline: Color of a thin frame around each image; None for no frame.
        enlarge: What happens to an image smaller than its cell: "smooth" scales it to fill the cell, "pixels" magnifies
            it by the largest whole number that fits, so that every pixel stays a square, and "never" keeps its size.
            A larger image is always reduced to fit.
        caption_height: Space reserved below each cell for captions: four pixels, and the lines.
        caption_size: Font size of captions.
        line_height: Height of a line of a caption.
        heading_height: Space reserved above each row for its heading.
        heading_size: Font size of headings.
    """

    gap: int = 8
    group: int = 0
    margin: int = 8
    background: str = "white"
    outline: str | None = None
    enlarge: Literal["smooth", "pixels", "never"] = "smooth"
    caption_height: int = 0
    caption_size: int = 12
    line_height: int = 15
    heading_height: int = 0
    heading_size: int = 18


def near_square_columns(count: int) -> int:
    """Return the number of columns that makes a grid of `count` cells about as wide as high, never higher than wide."""
    return max(1, round(count**0.5 + 0.499))


def grid_size(count: int, *, columns: int, cell: Size, style: GridStyle) -> Size:
    """Return the size of the sheet that `draw_grid` makes of `count` tiles."""
    right, bottom = _corner(columns - 1, -(-count // columns) - 1, cell, style)
    return right + cell[0] + style.margin, bottom + cell[1] + style.caption_height + style.margin


def draw_grid(
    tiles: Sequence[Tile | None], *, columns: int, cell: Size, style: GridStyle, headings: Sequence[str] = ()
) -> Image.Image:
    """Draw tiles row by row, each image in the middle of its cell, or right above its captions if there are any.

    Transparent images lie on the colour of the sheet.

    Args:
        tiles: The tiles in reading order; None leaves a cell empty.
        columns: Number of cells in a row.
        cell: Size of the box that an image fits into.
        style: The looks of the grid.
        headings: One text for each row, if rows have headings.
    """
    sheet = Image.new("RGB", grid_size(len(tiles), columns=columns, cell=cell, style=style), style.background)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(style.caption_size)
    for row, heading in enumerate(headings):
        left, top = _corner(0, row, cell, style)
        title = ImageFont.load_default(style.heading_size)
        draw.text((left, top - style.heading_height), _ascii(heading), fill="black", font=title)
    for i, tile in enumerate(tiles):
        if tile is None:
            continue
        left, top = _corner(i % columns, i // columns, cell, style)
        image = fit_into(tile.image, cell, style.enlarge)
        above = cell[1] - image.height
        x, y = left + (cell[0] - image.width) // 2, top + (above if tile.captions else above // 2)
        sheet.paste(image, (x, y), image if image.mode == "RGBA" else None)
        if style.outline is not None:
            draw.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=style.outline)
        line = top + cell[1] + _CAPTION_OFFSET
        for caption in tile.captions:
            for text in wrap_text(caption.text, font, width=cell[0], max_lines=caption.max_lines):
                draw.text((left, line), text, fill=caption.color, font=font)
                line += style.line_height
    return sheet


def contact_sheet(paths: Sequence[Path], destination: Path, *, seed: int = 0) -> None:
    """Write a PNG that shows a random choice of at most `CONTACT_SHEET_IMAGES` images, in their given order."""
    count = min(CONTACT_SHEET_IMAGES, len(paths))
    chosen = sorted(random.Random(seed).sample(range(len(paths)), count))
    cell = (128, 128)
    tiles = [
        Tile(fit_into(decode_image(paths[index].read_bytes(), _OWN_FILES), cell, "smooth")) for index in chosen
    ]  # reduced at once, so that 64 large images need no memory
    style = GridStyle(gap=4, margin=4, background="grey")
    sheet = draw_grid(tiles, columns=min(8, count), cell=cell, style=style)
    with atomic_path(destination) as temporary:
        sheet.save(temporary, format="PNG")


def fit_into(image: Image.Image, cell: Size, enlarge: Literal["smooth", "pixels", "never"]) -> Image.Image:
    """Scale an image to fit a cell, keeping its ratio; see `GridStyle.enlarge` for smaller images."""
    if image.width > cell[0] or image.height > cell[1] or enlarge == "smooth":
        return ImageOps.contain(image, cell, method=Image.Resampling.LANCZOS)
    if enlarge == "never":
        return image
    factor = min(cell[0] // image.width, cell[1] // image.height)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def wrap_text(text: str, font: Font, *, width: int, max_lines: int) -> list[str]:
    """Break a text into at most `max_lines` lines of at most `width` pixels.

    Two dots mark text that was cut out: in the middle of a word that is too wide for a line, in the middle of a text
    that may take one line only, and at the end of a text that needs more lines than it may take.
    """
    text = _ascii(text)
    if max_lines == 1:
        return [_clip(text, font, width)]
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    lines.append(line)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1][:-2]}.."]
    return [_clip(line, font, width) for line in lines]


def _corner(column: int, row: int, cell: Size, style: GridStyle) -> tuple[int, int]:
    """Return the left and upper edge of a cell on the sheet."""
    groups = column // style.group if style.group else 0
    left = style.margin + column * (cell[0] + style.gap) + groups * style.gap
    row_height = style.heading_height + cell[1] + style.caption_height + style.gap
    return left, style.margin + row * row_height + style.heading_height


def _clip(text: str, font: Font, width: int) -> str:
    """Cut out the middle of a text that is wider than `width` pixels."""
    kept, shown = len(text), text
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}..{text[len(text) - (kept - kept // 2) :]}"
    return shown


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
