"""Image grids: where tiles lie, how images are scaled, and how captions are cut."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from bitvar.imaging.sheet import (
    Caption,
    GridStyle,
    Tile,
    draw_grid,
    fit_into,
    grid_size,
    near_square_columns,
    wrap_text,
)

RED, BLUE = Image.new("RGB", (10, 10), "red"), Image.new("RGB", (10, 10), "blue")


def test_tiles_lie_side_by_side_and_empty_cells_stay_empty() -> None:
    style = GridStyle(gap=2, margin=3)
    sheet = draw_grid([Tile(RED), None, Tile(BLUE)], columns=2, cell=(10, 10), style=style)
    assert sheet.size == grid_size(3, columns=2, cell=(10, 10), style=style) == (28, 28)
    pixels = np.asarray(sheet)
    assert (pixels[3:13, 3:13] == (255, 0, 0)).all() and (pixels[15:25, 3:13] == (0, 0, 255)).all()
    assert (pixels == 255).all(axis=2).sum() == 28 * 28 - 2 * 100


def test_transparent_tiles_lie_on_the_sheet() -> None:
    tile = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    tile.paste((255, 0, 0, 255), (0, 0, 5, 10))
    style = GridStyle(gap=0, margin=0, background="blue")
    pixels = np.asarray(draw_grid([Tile(tile)], columns=1, cell=(10, 10), style=style))
    assert (pixels[:, :5] == (255, 0, 0)).all() and (pixels[:, 5:] == (0, 0, 255)).all()


def test_groups_lie_twice_as_far_apart() -> None:
    sheet = draw_grid([Tile(RED)] * 4, columns=4, cell=(10, 10), style=GridStyle(gap=2, margin=0, group=2))
    columns = (np.asarray(sheet)[0] == (255, 0, 0)).all(axis=1)
    assert [len(run) for run in "".join("x" if x else " " for x in columns).split("x") if run] == [2, 4, 2]


@pytest.mark.parametrize("count", range(1, 65))
def test_near_square_grids_hold_their_tiles(count: int) -> None:
    columns = near_square_columns(count)
    assert columns**2 >= count and 0 <= columns - -(-count // columns) <= 1


def test_headings_and_captions_have_room_of_their_own() -> None:
    style = GridStyle(caption_height=34, heading_height=30)
    tiles = [Tile(RED, [Caption("x", "#00ff00"), Caption("y")])]
    sheet = np.asarray(draw_grid(tiles, columns=1, cell=(40, 40), style=style, headings=["H"]))
    assert (sheet[38:78, 8:48] == (255, 0, 0)).all()
    assert (sheet[8:38] < 128).any() and (sheet[78:112] < 128).any() and (sheet[112:] == 255).all()


@pytest.mark.parametrize(
    ("size", "enlarge", "shown"),
    [((40, 20), "smooth", (100, 50)), ((40, 20), "pixels", (80, 40)), ((40, 20), "never", (40, 20)),
     ((400, 200), "smooth", (100, 50)), ((400, 200), "pixels", (100, 50)), ((400, 200), "never", (100, 50))],
)  # fmt: skip
def test_images_fit_their_cells(size: tuple[int, int], enlarge: str, shown: tuple[int, int]) -> None:
    assert fit_into(Image.new("RGB", size), (100, 100), enlarge).size == shown  # pyright: ignore[reportArgumentType]


def test_texts_are_wrapped_and_cut() -> None:
    font = ImageFont.load_default(12)
    for text in ("word " * 40, "x" * 400, "a name_that_is_much_too_long_for_one_line.png", "short"):
        for max_lines in (1, 2, 3):
            lines = wrap_text(text, font, width=120, max_lines=max_lines)
            assert 1 <= len(lines) <= max_lines
            assert all(font.getlength(line) <= 120 for line in lines)
    (line,) = wrap_text("0000_a_very_long_name_of_a_photograph_1234.png", font, width=120, max_lines=1)
    assert line.startswith("0000") and line.endswith("1234.png") and ".." in line
    assert wrap_text("word " * 40, font, width=120, max_lines=2)[-1].endswith("..")
