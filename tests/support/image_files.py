"""Small image files for tests of edits: an image, masks in several conventions, and mutations of files."""

import io
from typing import Any

import numpy as np
from PIL import Image

SIZE = (64, 64)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Write an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth_image(size: tuple[int, int] = SIZE, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth image of a seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


def image_file(size: tuple[int, int] = SIZE, *, seed: int = 0) -> bytes:
    """A PNG of `smooth_image`."""
    return encoded(smooth_image(size, seed=seed))


def mask_image(size: tuple[int, int] = SIZE, box: tuple[int, int, int, int] = (32, 0, 64, 64)) -> Image.Image:
    """A mask that is transparent in a box: left, top, right, bottom."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return mask


def mask_file(size: tuple[int, int] = SIZE, box: tuple[int, int, int, int] = (32, 0, 64, 64)) -> bytes:
    """A PNG of `mask_image`."""
    return encoded(mask_image(size, box))


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """Change some bytes, cut or double a part, or insert noise, as a careless or hostile sender might."""
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 6))):
        if not changed:
            break
        at = int(generator.integers(len(changed)))
        length = int(generator.integers(1, max(2, min(64, len(changed) - at + 1))))
        kind = int(generator.integers(6))
        if kind == 0:
            changed[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            changed[at : at + length] = generator.bytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length] * int(generator.integers(1, 5))
        elif kind == 4:
            changed[at : at + 4] = int(generator.integers(2**32)).to_bytes(4, "big")
        elif generator.integers(4) == 0:
            del changed[at:]
    return bytes(changed)
