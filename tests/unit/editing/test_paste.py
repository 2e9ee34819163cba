"""Pasting what was drawn into the original: the feathered seam."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bitvar.editing.frame import Frame
from bitvar.editing.masks import box_mask
from bitvar.editing.paste import _eroded, _mixed, paste


@pytest.mark.parametrize("radius", [1, 2, 3, 7, 8, 40])
def test_erosion_is_the_minimum_over_a_square(radius: int) -> None:
    mask = np.random.default_rng(radius).choice(np.array([0, 80, 255], np.uint8), (37, 50), p=[0.01, 0.01, 0.98])
    expected = Image.fromarray(np.pad(mask, 40, constant_values=255)).filter(ImageFilter.MinFilter(2 * radius + 1))
    assert np.array_equal(_eroded(mask, radius), np.asarray(expected)[40:-40, 40:-40])


def test_opaque_images_are_mixed_as_any_others() -> None:
    generator = np.random.default_rng(0)
    before, after = (Image.fromarray(generator.integers(0, 256, (20, 30, 4), np.uint8)) for _ in range(2))
    for image in (before, after):
        image.putalpha(255)
    weight = Image.fromarray(generator.integers(0, 256, (20, 30), np.uint8))
    plain = np.asarray(Image.composite(after, before, weight), dtype=int)
    assert np.abs(plain - np.asarray(_mixed(before, after, weight))).max() <= 1


@pytest.mark.parametrize("alpha", [255, 100])
def test_pasting_touches_nothing_outside_the_mask(alpha: int) -> None:
    original = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 4), np.uint8))
    original.putalpha(alpha)
    mask = box_mask((40, 40), (5, 6, 20, 10))
    made = paste(original, mask, Image.new("RGB", (16, 16)), Frame.fit((40, 40), (16, 16), "cover"), feather=1 / 40)
    inside = np.asarray(mask) > 0
    assert np.array_equal(np.asarray(made)[~inside], np.asarray(original)[~inside])
    assert np.abs(np.asarray(made)[10, 15].astype(int) - [0, 0, 0, 255]).max() <= 2
