"""Pasting what was drawn into the original: the feathered seam."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bitvar.editing.paste import _eroded


@pytest.mark.parametrize("radius", [1, 2, 3, 7, 8, 40])
def test_erosion_is_the_minimum_over_a_square(radius: int) -> None:
    mask = np.random.default_rng(radius).choice(np.array([0, 80, 255], np.uint8), (37, 50), p=[0.01, 0.01, 0.98])
    expected = Image.fromarray(np.pad(mask, 40, constant_values=255)).filter(ImageFilter.MinFilter(2 * radius + 1))
    assert np.array_equal(_eroded(mask, radius), np.asarray(expected)[40:-40, 40:-40])
