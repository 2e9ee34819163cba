"""Maps: edges of images, and drawings on paper of any colour."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from bitvar.control.agreement import edge_agreement
from bitvar.control.maps import control_map, edge_maps, line_map, thicken
from bitvar.errors import UsageError


def drawing(size: int = 128, *, pen: str = "black", paper: str = "white", width: int = 2) -> Image.Image:
    image = Image.new("RGB", (size, size), paper)
    margin = size // 4
    ImageDraw.Draw(image).rectangle((margin, margin, size - margin, size - margin), outline=pen, width=width)
    return image


def square_lines() -> np.ndarray:
    """Where the drawing's lines are on a map of 32 pixels."""
    found = np.zeros((32, 32), bool)
    found[8:25, 8:25] = True
    found[10:23, 10:23] = False
    return found


def test_edges_are_thin_closed_and_where_the_colours_meet() -> None:
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    image[0, 8:24, 8:24] = (200, 40, 40)
    edges = edge_maps(image)[0]
    assert set(np.unique(edges)) == {0.0, 1.0}
    rows, columns = np.nonzero(edges)
    distance = np.maximum(np.abs(rows - 15.5), np.abs(columns - 15.5))
    assert ((distance > 6.5) & (distance < 9.5)).all()
    assert (edges[15, :16].sum(), edges[15, 16:].sum()) == (1, 1)
    assert not edge_maps(np.full((2, 16, 16, 3), 90, np.uint8)).any()


def test_colours_of_equal_brightness_have_an_edge() -> None:
    image = np.full((1, 16, 16, 3), (255, 0, 0), np.uint8)
    image[0, :, 8:] = (0, 130, 0)  # 0.299 * 255 = 0.587 * 130
    assert edge_maps(image)[0, 4:12].sum(1).tolist() == [1] * 8


def test_a_faint_edge_counts_where_it_continues_a_strong_one() -> None:
    image = np.full((1, 32, 32, 3), 100, np.uint8)
    image[0, :, 16:] = 100 + np.linspace(110, 50, 32)[:, None, None]  # fading downwards
    assert edge_maps(image)[0].sum(1).tolist() == [1] * 32
    image[0, :, 16:] = 150  # the faint end alone
    assert not edge_maps(image).any()


@pytest.mark.parametrize(
    ("pen", "paper"), [("black", "white"), ("white", "black"), ("#333", "#ddd"), ("blue", "white")]
)
def test_any_pen_on_any_paper_gives_the_same_lines(pen: str, paper: str) -> None:
    lines = line_map(drawing(pen=pen, paper=paper), (32, 32))
    assert (lines > 0.4)[~square_lines()].sum() == 0
    assert (lines > 0.4)[square_lines()].mean() > 0.4
    assert lines[15, 15] == 0 and lines[0, 0] == 0


def test_thin_lines_survive_a_large_canvas() -> None:
    lines = line_map(drawing(1024, width=2), (32, 32))
    assert lines[16, 7:10].max() > 0.9


@pytest.mark.parametrize("pen", ["black", "white"])
def test_a_transparent_background_is_paper(pen: str) -> None:
    ink = drawing(pen="black").convert("L")
    clear = Image.new("RGBA", ink.size, pen)
    clear.putalpha(ImageOps.invert(ink))
    expected = line_map(drawing(), (32, 32))
    np.testing.assert_allclose(line_map(clear, (32, 32)), expected, atol=0.02)


def test_a_drawing_of_another_ratio_is_fitted_inside() -> None:
    wide = Image.new("RGB", (128, 64), "white")
    ImageDraw.Draw(wide).line((10, 32, 117, 32), fill="black", width=3)
    lines = line_map(wide, (32, 32))
    assert lines[15:17].max(0)[4:28].min() > 0.5
    assert not lines[:8].any() and not lines[24:].any()


def test_a_blank_sheet_and_a_photograph_are_no_drawings() -> None:
    with pytest.raises(UsageError, match="no lines"):
        line_map(Image.new("RGB", (32, 32), "white"), (16, 16))
    with pytest.raises(UsageError, match="no lines"):
        line_map(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), (16, 16))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(UsageError, match="no line drawing"):
        line_map(Image.fromarray(noise), (32, 32))
    with pytest.raises(UsageError, match="no edges"):
        control_map(Image.new("RGB", (32, 32), "red"), (16, 16), "edges")


def test_the_kind_says_how_an_image_is_read() -> None:
    filled = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(filled).rectangle((24, 24, 40, 40), fill="black")
    as_edges, as_lines = (control_map(filled, (32, 32), kind) for kind in ("edges", "lines"))
    assert as_edges[16, 16] == 0 and as_lines[16, 16] == 255
    assert as_edges.any()


def test_thicker_lines_have_neighbours() -> None:
    maps = np.zeros((1, 5, 5), np.float32)
    maps[0, 2, 2] = 1
    assert thicken(maps)[0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_agreement_counts_edges_within_a_pixel() -> None:
    maps = np.zeros((2, 16, 16), np.float32)
    maps[:, 4, 2:14] = 1
    near, far = np.roll(maps, 1, axis=1), np.roll(maps, 2, axis=1)
    assert edge_agreement(maps, maps).f1.tolist() == [1, 1]
    assert edge_agreement(near, maps).f1.tolist() == [1, 1]
    assert edge_agreement(far, maps).f1.tolist() == [0, 0]
    assert edge_agreement(near, maps, tolerance=0).f1.tolist() == [0, 0]
    half = maps.copy()
    half[:, :, 8:] = 0
    found = edge_agreement(half, maps)
    assert found.precision.tolist() == [1, 1]
    np.testing.assert_allclose(found.recall, 7 / 12, atol=1e-6)
    assert edge_agreement(np.zeros_like(maps), maps).f1.tolist() == [0, 0]
