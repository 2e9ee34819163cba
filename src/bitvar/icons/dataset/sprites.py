"""Cut-out drawings: trimming, recolouring, and whether they stand out from a background.

A sprite is an RGBA image with straight (not premultiplied) alpha. This module knows nothing about concepts or captions.
"""

import numpy as np
from PIL import Image

_OPAQUE = 24  # alpha (0..255) from which a pixel counts as part of the drawing
_NUM_HUE_BINS = 36
_HUE_REACH = 50.0  # degrees around the main hue that count as the same paint
_HUE_FADE = 25.0  # degrees over which the recolouring fades out beyond that
_SATURATION_FLOOR, _SATURATION_FULL = 0.06, 0.2
_SMALLEST_PAINTED_SHARE = 0.3
_CAMOUFLAGE_DISTANCE = 64.0  # Euclidean distance in RGB 0..255


def trim_to_alpha(sprite: Image.Image) -> Image.Image:
    """Crop an RGBA sprite to its opaque part; ValueError if it is fully transparent."""
    box = sprite.getchannel("A").point([0] * _OPAQUE + [255] * (256 - _OPAQUE)).getbbox()
    if box is None:
        raise ValueError("the drawing is fully transparent; expected an opaque part; check the source package")
    return sprite.crop(box)


def recolour(sprite: Image.Image, target: tuple[int, int, int]) -> Image.Image:
    """Copy a sprite with its main paint changed to the colour `target` (RGB 0..255), keeping its shading and alpha.

    The main paint is the most common saturated hue with its neighbours; where it covers too little, everything but near
    black and near white is repainted. The paint's mean luminance maps to `target`, darker pixels to a shade of it and
    lighter ones to a tint, so that yellow stays yellow on dark drawings and brown stays brown on light ones.
    """
    pixels = np.asarray(sprite, dtype=np.float64)
    rgb, alpha = pixels[..., :3] / 255.0, pixels[..., 3] / 255.0
    luminance = rgb @ np.array([0.299, 0.587, 0.114])
    weight = _paint_weight(rgb, alpha, luminance)
    mean = float(np.clip(np.average(luminance, weights=weight * alpha + 1e-9), 0.05, 0.95))
    colour = np.array(target) / 255.0
    shade = colour * np.clip(luminance / mean, 0.0, 1.0)[..., None] ** 0.8
    tint = np.clip((luminance - mean) / (1.0 - mean), 0.0, 1.0)[..., None] * 0.7
    painted = shade + (1.0 - shade) * tint
    mixed = rgb + (painted - rgb) * weight[..., None]
    result = np.concatenate([np.rint(mixed * 255.0), pixels[..., 3:]], axis=-1)
    return Image.fromarray(result.clip(0, 255).astype(np.uint8))


def camouflaged_share(sprite: Image.Image, background: tuple[int, int, int]) -> float:
    """Compute the share (0..1) of the sprite's opaque pixels whose colour is close to `background` (RGB 0..255)."""
    pixels = np.asarray(sprite, dtype=np.float64)
    opaque = pixels[pixels[..., 3] >= _OPAQUE][:, :3]
    return float(np.mean(np.linalg.norm(opaque - np.array(background), axis=-1) < _CAMOUFLAGE_DISTANCE))


def _paint_weight(rgb: np.ndarray, alpha: np.ndarray, luminance: np.ndarray) -> np.ndarray:
    """Compute how strongly each pixel is repainted, 0..1, shape (height, width)."""
    hue, saturation = _hue_and_saturation(rgb)
    chroma = _ramp(saturation, _SATURATION_FLOOR, _SATURATION_FULL) * _ramp(rgb.max(axis=-1), 0.08, 0.2)
    votes = np.histogram(hue, bins=_NUM_HUE_BINS, range=(0.0, 360.0), weights=chroma * alpha)[0]
    smooth = votes + np.roll(votes, 1) + np.roll(votes, -1)
    main_hue = (float(np.argmax(smooth)) + 0.5) * 360.0 / _NUM_HUE_BINS
    distance = np.abs((hue - main_hue + 180.0) % 360.0 - 180.0)
    weight = chroma * (1.0 - _ramp(distance, _HUE_REACH, _HUE_REACH + _HUE_FADE))
    if float((weight * alpha).sum()) >= _SMALLEST_PAINTED_SHARE * float(alpha.sum()):
        return weight
    return np.maximum(chroma, _ramp(luminance, 0.12, 0.3) * (1.0 - _ramp(luminance, 0.93, 0.99)))


def _hue_and_saturation(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the hue in degrees 0..360 and the HSV saturation 0..1, each of shape (height, width)."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    highest, lowest = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = np.maximum(highest - lowest, 1e-9)
    sector = np.where(
        highest == red,
        (green - blue) / spread,
        np.where(highest == green, 2.0 + (blue - red) / spread, 4.0 + (red - green) / spread),
    )
    return (sector * 60.0) % 360.0, (highest - lowest) / np.maximum(highest, 1e-9)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0.0, 1.0)
