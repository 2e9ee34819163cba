"""Conversion between arrays, tensors and PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.imaging.alpha import flatten, lay_on_white, take_off_white
from bitvar.imaging.convert import channels_first, channels_last, from_pil, to_image, to_numpy, to_pil
from bitvar.imaging.pixels import to_signed


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 5, 7, 4), (1, 5, 7, 1)])
def test_the_channel_axis_moves_there_and_back(shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    moved = channels_first(array)
    assert moved.shape == (*shape[:-3], shape[-1], *shape[-3:-1])
    assert (channels_last(moved) == array).all() and channels_last(moved).dtype == np.uint8


def test_a_read_only_array_is_copied() -> None:
    array = noise(5, 7, 3)
    array.flags.writeable = False
    channels_first(array).zero_()
    assert array.any()


def test_images_come_back_from_pixels() -> None:
    images = [Image.fromarray(array) for array in noise(2, 6, 4, 3)]
    pixels = from_pil(images)
    assert pixels.shape == (2, 3, 6, 4) and pixels.min() >= -1 and pixels.max() <= 1
    assert [image.tobytes() for image in to_pil(pixels)] == [image.tobytes() for image in images]
    assert (to_numpy(pixels) == np.stack([np.asarray(image) for image in images])).all()
    assert from_pil([images[0].convert("L")]).shape == (1, 3, 6, 4)


def test_transparent_images_come_back_from_pixels() -> None:
    images = [Image.fromarray(array) for array in noise(2, 6, 4, 4)]
    laid = lay_on_white(noise(2, 6, 4, 4))
    pixels = from_pil(images, channels=4)
    assert torch.equal(pixels, to_signed(channels_first(laid)))
    assert (to_numpy(pixels) == take_off_white(laid)).all()
    assert [(image.mode, image.tobytes()) for image in to_pil(pixels)] == [
        ("RGBA", array.tobytes()) for array in take_off_white(laid)
    ]
    assert to_image(pixels[0]).tobytes() == laid[0, ..., :3].tobytes()
    assert torch.equal(from_pil(images), from_pil([flatten(image) for image in images]))


def test_images_without_opacity_are_opaque_pixels() -> None:
    image = Image.fromarray(noise(6, 4, 3))
    pixels = from_pil([image], channels=4)
    assert (pixels[:, 3] == 1).all() and torch.equal(pixels[:, :3], from_pil([image]))


@pytest.mark.parametrize(("channels", "color"), [(1, (255, 255, 255)), (2, (128, 128, 128)), (5, (255, 0, 255))])
def test_any_number_of_channels_can_be_looked_at(channels: int, color: tuple[int, int, int]) -> None:
    pixels = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0])[:channels, None, None].expand(-1, 2, 2)
    assert to_image(pixels).getpixel((0, 0)) == color
