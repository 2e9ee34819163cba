"""Transparency as models see it: the image laid on white, and its opacity as a fourth channel.

Straight alpha has no colour where an image is transparent. Laid on white it has one everywhere, the first three
channels are the image that people see on a white page, and a small mistake in the opacity leaves no dark fringe.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def lay_on_white(rgba: UInt8[np.ndarray, "*b H W 4"]) -> UInt8[np.ndarray, "*b H W 4"]:
    """Lay images with straight alpha on white, and keep the alpha."""
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    colours = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)
    return np.concatenate([np.rint(colours).astype(np.uint8), rgba[..., 3:]], axis=-1)


def take_off_white(laid: UInt8[np.ndarray, "*b H W 4"]) -> UInt8[np.ndarray, "*b H W 4"]:
    """Recover straight alpha: the inverse of `lay_on_white`, up to rounding, wherever an image is not transparent.

    Colours that no opacity explains are clipped; transparent pixels become white.
    """
    alpha = laid[..., 3:].astype(np.float32) / 255.0
    colours = 255.0 - (255.0 - laid[..., :3]) / np.maximum(alpha, 1e-6)
    colours = np.where(alpha > 0, colours, 255.0)
    return np.concatenate([np.rint(colours.clip(0, 255)).astype(np.uint8), laid[..., 3:]], axis=-1)


def flatten(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white, which makes it RGB. Return an image of any other mode as it is."""
    if image.mode != "RGBA":
        return image
    return Image.fromarray(np.ascontiguousarray(lay_on_white(np.asarray(image))[..., :3]))
