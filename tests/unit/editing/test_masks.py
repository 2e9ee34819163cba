"""Masks by alpha, brightness and boxes; frames; and pasting what was drawn into the original."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar.editing.frame import Frame
from bitvar.editing.masks import box_mask, extend, invert, read_mask
from bitvar.editing.paste import paste, seam_visibility
from bitvar.errors import UsageError


def rgba(size: tuple[int, int] = (8, 6), colour: Any = (10, 20, 30, 255)) -> Image.Image:
    return Image.new("RGBA", size, colour)


def holed() -> Image.Image:
    image = rgba()
    image.paste((0, 0, 0, 0), (2, 1, 5, 4))
    return image


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


HOLE = np.zeros((6, 8), np.uint8)
HOLE[1:4, 2:5] = 255


def test_transparent_parts_may_change() -> None:
    assert np.array_equal(values(read_mask(holed(), (8, 6), convention="alpha")), HOLE)
    assert np.array_equal(values(read_mask(holed(), (8, 6), convention="auto")), HOLE)


def test_white_parts_may_change() -> None:
    white = rgba(colour="black")
    white.paste("white", (2, 1, 5, 4))
    for convention in ("white", "auto"):
        assert np.array_equal(values(read_mask(white, (8, 6), convention=convention)), HOLE)


def test_grey_stays_grey() -> None:
    grey = rgba(colour=(0, 0, 0, 100))
    assert (values(read_mask(grey, (8, 6), convention="alpha")) == 155).all()


@pytest.mark.parametrize(
    ("image", "size", "convention", "expected"),
    [
        (rgba(), (8, 6), "alpha", r"no transparent part[\s\S]*it has none[\s\S]*white is the part"),
        (holed(), (6, 8), "alpha", r"doesn't fit the image[\s\S]*8x6 pixels, and the image 6x8"),
        (rgba(colour="black"), (8, 6), "white", r"selects nothing[\s\S]*white"),
        (rgba(colour="black"), (8, 6), "auto", r"selects nothing"),
    ],
    ids=["no alpha", "size", "empty", "empty auto"],
)
def test_masks_that_select_nothing_are_refused(image: Image.Image, size: Any, convention: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read_mask(image, size, convention=convention)


def test_boxes_and_their_inverse() -> None:
    mask = box_mask((8, 6), (2, 1, 3, 3))
    assert np.array_equal(values(mask), HOLE) and np.array_equal(values(invert(mask)), 255 - HOLE)


@pytest.mark.parametrize("box", [(0, 0, 0, 3), (-1, 0, 3, 3), (6, 0, 3, 3), (0, 4, 3, 3)], ids=str)
def test_boxes_outside_the_image_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"doesn't lie in the image[\s\S]*8x6"):
        box_mask((8, 6), box)


def test_an_image_extends_by_its_edges() -> None:
    image = Image.fromarray(np.arange(8 * 6 * 4, dtype=np.uint8).reshape(6, 8, 4))
    larger, mask = extend(image, (1, 0, 3, 2))
    assert larger.size == mask.size == (12, 8)
    assert np.array_equal(values(larger)[:6, 1:9], values(image))
    assert np.array_equal(values(larger)[7, 11], values(image)[5, 7])
    assert not values(mask)[:6, 1:9].any() and values(mask)[6:].all() and values(mask)[:, 0].all()


def test_margins_that_make_too_large_an_image_are_refused() -> None:
    for margins in ((16384, 16384, 16384, 16384), (0, 0, 5000, 0)):
        with pytest.raises(UsageError, match=r"margins are too large[\s\S]*add fewer pixels"):
            extend(rgba((64, 64)), margins)


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (-1, 4, 0, 0), (20_000, 0, 0, 0)], ids=str)
def test_margins_out_of_range_are_refused(margins: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="extend nothing"):
        extend(rgba(), margins)


@pytest.mark.parametrize(
    ("size", "how", "box"),
    [
        ((64, 64), "cover", (0, 0, 64, 64)),
        ((100, 60), "cover", (20, 0, 80, 60)),
        ((100, 60), "pad", (0, -20, 100, 80)),
        ((30, 90), "cover", (0, 30, 30, 60)),
        ((30, 90), "pad", (-30, 0, 60, 90)),
    ],
    ids=str,
)
def test_a_frame_covers_or_pads(size: Any, how: Any, box: Any) -> None:
    frame = Frame.fit(size, (32, 32), how)
    assert frame.box == box
    image = rgba(size)
    assert frame.view(image).size == frame.view_mask(Image.new("L", size)).size == (32, 32)
    assert values(frame.view(image)).min(axis=(0, 1)).tolist() == [10, 20, 30, 255], "edges are repeated"
    assert frame.place(rgba((32, 32), "red"), image).size == size


@pytest.mark.parametrize("how", ["cover", None])
def test_a_frame_covers_the_mask_rather_than_the_middle(how: Any) -> None:
    assert Frame.fit((200, 100), (32, 32), how, around=(0, 20, 48, 80)).box == (0, 0, 100, 100)
    assert Frame.fit((200, 100), (32, 32), how, around=(150, 0, 190, 10)).box == (100, 0, 200, 100)
    assert Frame.fit((100, 300), (32, 32), how, around=(40, 140, 60, 160)).box == (0, 100, 100, 200)


def test_a_frame_pads_rather_than_cut_off_a_part_of_the_mask() -> None:
    assert Frame.fit((200, 100), (32, 32), None, around=(20, 0, 180, 100)).box == (0, -50, 200, 150)
    assert Frame.fit((200, 100), (32, 32), "cover", around=(20, 0, 180, 100)).box == (50, 0, 150, 100)


def test_long_images_are_padded_without_a_large_square() -> None:
    frame = Frame.fit((6400, 100), (64, 64), "pad")
    view = np.asarray(frame.view(rgba((6400, 100), "red")))
    assert view.shape == (64, 64, 4) and (view == (255, 0, 0, 255)).all()
    assert frame.inner[3] - frame.inner[1] == 1
    assert frame.place(rgba((64, 64), "blue"), rgba((6400, 100), "red")).getpixel((3000, 50)) == (0, 0, 255, 255)


def test_a_pixel_of_a_mask_is_not_averaged_away() -> None:
    mask = Image.new("L", (1000, 1000), 0)
    mask.putpixel((500, 300), 255)
    view = np.asarray(Frame.fit((1000, 1000), (64, 64)).view_mask(mask))
    assert view.max() == 255 and (view > 0).sum() == 1
    larger = np.asarray(Frame.fit((8, 8), (64, 64)).view_mask(box_mask((8, 8), (2, 2, 1, 1))))
    assert (larger == 255).sum() == 64


def test_a_frame_of_the_canvas_size_copies() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 4), np.uint8))
    frame = Frame.fit((48, 32), (48, 32), "cover")
    assert np.array_equal(values(frame.view(image)), values(image))


@pytest.mark.parametrize("feather", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("size", [(64, 64), (150, 90)], ids=str)
def test_pixels_outside_the_mask_are_the_originals(size: Any, feather: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    original = Image.fromarray(noise)
    mask = box_mask(size, (20, 16, 30, 40))
    frame = Frame.fit(size, (64, 64), "cover")
    pasted = paste(original, mask, rgba((64, 64), "red"), frame, feather=feather)
    outside = values(mask) == 0
    assert pasted.size == size and np.array_equal(values(pasted)[outside], noise[outside])
    assert np.allclose(values(pasted)[36, 35], [255, 0, 0, 255], atol=20)


def test_a_feathered_seam_shows_less() -> None:
    size = (96, 96)
    original, mask = rgba(size, "white"), box_mask(size, (24, 24, 48, 48))
    frame = Frame.fit(size, size, "cover")
    hard, soft = (paste(original, mask, rgba(size, "black"), frame, feather=share) for share in (0.0, 0.05))
    assert seam_visibility(hard, mask) > 100
    assert seam_visibility(soft, mask) < 3
    assert seam_visibility(original, mask) == 1.0
    assert seam_visibility(original, Image.new("L", size, 255)) == 1.0


def test_a_thin_mask_is_not_feathered_away() -> None:
    size = (64, 64)
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).line((0, 32, 63, 32), fill=255)
    pasted = paste(rgba(size, "white"), mask, rgba(size, "black"), Frame.fit(size, size, "cover"), feather=0.1)
    assert values(pasted)[32, 32].tolist() == [0, 0, 0, 255]
