"""Transparency as a fourth channel of images on white: there and back, and what is lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bitvar.imaging.alpha import flatten, lay_on_white, take_off_white

RGBA = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4)))


def composite(rgba: np.ndarray) -> np.ndarray:
    """The image on white, by Pillow."""
    image = Image.fromarray(rgba)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))[..., :3]


@settings(deadline=None)
@given(RGBA)
def test_the_first_channels_are_the_image_on_white(rgba: np.ndarray) -> None:
    laid = lay_on_white(rgba)
    assert (laid[..., 3] == rgba[..., 3]).all()
    assert np.abs(laid[..., :3].astype(int) - composite(rgba)).max() <= 1


@settings(deadline=None)
@given(RGBA)
def test_images_come_back(rgba: np.ndarray) -> None:
    laid = lay_on_white(rgba)
    back = take_off_white(laid)
    opaque, clear = rgba[..., 3] == 255, rgba[..., 3] == 0
    assert (back[..., 3] == rgba[..., 3]).all()
    assert (back[opaque] == rgba[opaque]).all()
    assert (back[clear][:, :3] == 255).all()
    assert np.abs(lay_on_white(back).astype(int) - laid).max() <= 1
    assert np.abs(composite(back).astype(int) - composite(rgba)).max() <= 1


def test_colours_that_no_opacity_explains_are_clipped() -> None:
    black = np.array([[[0, 0, 0, 128], [0, 0, 0, 0]]], np.uint8)
    assert take_off_white(black).tolist() == [[[0, 0, 0, 128], [255, 255, 255, 0]]]


def test_batches_are_laid_as_their_images_are() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    assert (lay_on_white(rgba) == np.stack([lay_on_white(one) for one in rgba])).all()
    assert (take_off_white(rgba) == np.stack([take_off_white(one) for one in rgba])).all()


def test_only_transparent_images_are_flattened() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    flat = flatten(image)
    assert (flat.mode, flat.getpixel((0, 0)), flat.getpixel((1, 0))) == ("RGB", (255, 0, 0), (255, 255, 255))
    assert image.mode == "RGBA" and flatten(flat) is flat


@pytest.mark.parametrize("alpha", [1, 7, 128, 254, 255])
def test_a_colour_is_as_exact_as_its_opacity_allows(alpha: int) -> None:
    colours = np.arange(256, dtype=np.uint8)
    rgba = np.stack([colours, colours, colours, np.full_like(colours, alpha)], axis=-1)[None]
    back = take_off_white(lay_on_white(rgba))
    assert np.abs(back[..., :3].astype(int) - rgba[..., :3]).max() <= 0.5 * 255 / alpha + 0.5
