"""Views of transparent images for a training step: the image on white, and its opacity."""

import io

import numpy as np
import pytest
from PIL import Image

from bitvar.data.views import View, decode_planes
from bitvar.imaging.alpha import lay_on_white
from bitvar.imaging.open import ImageLimits, RefusedError

LIMITS = ImageLimits()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_images_lie_on_white_beside_their_opacity(kind: str) -> None:
    rgba = noise(32, 32, 4)
    seen = View(4).see(encoded(Image.fromarray(rgba), kind), LIMITS, (32, 32))
    assert (seen == lay_on_white(rgba)).all()
    mirrored = View(4, mirrored=True).see(encoded(Image.fromarray(rgba)), LIMITS, (32, 32), (0.0, 0.0, 0.0, 0.0))
    assert (mirrored == lay_on_white(rgba)[:, ::-1]).all()


def test_images_without_opacity_are_opaque() -> None:
    rgb = noise(32, 32, 3)
    seen = View(4).see(encoded(Image.fromarray(rgb)), LIMITS, (32, 32))
    assert (seen[..., :3] == rgb).all() and (seen[..., 3] == 255).all()


def test_hidden_colours_never_bleed_into_smaller_views() -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))  # black, but nobody sees it
    image.paste((255, 0, 0, 255), (0, 0, 17, 32))
    seen = View(4).see(encoded(image), LIMITS, (8, 8)).astype(int)
    red = np.abs(seen[..., 0] - 255).max()  # both red and white have all of it
    assert red <= 2
    assert (seen[:, -1] == (255, 255, 255, 0)).all()


def test_arrays_of_four_channels_are_taken_as_they_are() -> None:
    array, file = noise(32, 32, 4), io.BytesIO()
    np.save(file, array)
    assert (View(4).see(file.getvalue(), LIMITS, (32, 32)) == array).all()
    assert len(decode_planes(file.getvalue(), LIMITS, 4)) == 4
    with pytest.raises(RefusedError, match="4 channels, not 3"):
        View(3).see(file.getvalue(), LIMITS, (32, 32))


def test_three_channels_are_the_image_on_white() -> None:
    rgba = noise(32, 32, 4)
    seen = View(3).see(encoded(Image.fromarray(rgba)), LIMITS, (32, 32)).astype(int)
    assert np.abs(seen - lay_on_white(rgba)[..., :3]).max() <= 1
