"""Control maps: where an image's edges are, or the lines of a drawing, at the size of the generated image.

A map has one channel, 0 where nothing is and 1 on a line. This module knows nothing about models or files.
"""

from typing import Final, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from bitvar.errors import UsageError
from bitvar.imaging.alpha import flatten
from bitvar.imaging.open import fit_image

MapKind: TypeAlias = Literal["lines", "edges"]
"""What an image is: "lines", a drawing whose lines are the map; "edges", any other image, whose edges are computed."""

STRONG: Final = 0.12
"""Gradient of a pixel that is an edge on its own. A step from black to white has 0.375."""

WEAK: Final = 0.05
"""Gradient of a pixel that is an edge if it continues one."""

MOST_INK: Final = 0.35
"""Largest mean of a drawing's map. A photograph has more, and so does a drawing in filled areas."""

FAINT: Final = 0.04
"""Contrast with the paper below which nothing counts as a line."""

_SMOOTHING: Final = np.array([1, 2, 1], np.float32) / 4
_SLOPE: Final = np.array([-1, 0, 1], np.float32) / 2
_DIRECTIONS: Final = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Offsets (rows, columns) of the neighbour along a gradient of 0, 45, 90 and 135 degrees."""


def edge_maps(images: UInt8[np.ndarray, "b H W 3"]) -> Float32[np.ndarray, "b H W"]:
    """Find edges one pixel wide: 1 on an edge, else 0.

    The operator is Canny's (A computational approach to edge detection, 1986): smoothing by (1, 2, 1) / 4, Sobel's
    gradient in the colour channel where it is largest, thinning along the gradient, and hysteresis between `WEAK` and
    `STRONG`. Areas of equal brightness but other colour have edges too.
    """
    colours = np.moveaxis(images.astype(np.float32) / 255, -1, 1)
    smooth = _filter(_filter(colours, _SMOOTHING, axis=-1), _SMOOTHING, axis=-2)
    dx = _filter(_filter(smooth, _SLOPE, axis=-1), _SMOOTHING, axis=-2)
    dy = _filter(_filter(smooth, _SLOPE, axis=-2), _SMOOTHING, axis=-1)
    strongest = np.argmax(dx**2 + dy**2, axis=1)[:, None]
    dx, dy = (np.take_along_axis(part, strongest, axis=1)[:, 0] for part in (dx, dy))
    strength = np.hypot(dx, dy)
    thin = np.where(_is_ridge(strength, dx, dy), strength, 0)
    return _connected(thin > STRONG, thin > WEAK).astype(np.float32)


def line_map(drawing: Image.Image, size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Read the lines of a drawing, dark on light or light on dark.

    The paper is the brightness of most pixels: at least a half of them are closer to it than to the other end of the
    scale. A transparent drawing lies on white, or on black if what is opaque is light. The drawing is fitted into the
    size, centred; the contrast is stretched so that thin lines survive being made small.

    Args:
        drawing: Drawing of any mode; RGBA for transparency.
        size: Width and height of the map in pixels.

    Raises:
        UsageError: For a drawing without lines, or an image that is no line drawing.
    """
    brightness = _brightness(drawing)
    paper = float(np.median(brightness))
    ink = np.abs(brightness - paper)
    small = _fitted(np.where(ink < FAINT, 0, ink), size)
    drawn = small[small > FAINT / 4]
    if not drawn.size:
        raise UsageError("The control image has no lines.", "it is blank", "draw dark lines on light, or light on dark")
    lines = np.clip(small / np.quantile(drawn, 0.9), 0, 1).astype(np.float32)
    if lines.mean() > MOST_INK:
        why = f"{lines.mean():.0%} of it differs from its background; lines cover less than {MOST_INK:.0%}"
        raise UsageError("The control image is no line drawing.", why, "to follow the edges of an image, say edges")
    return lines


def control_map(image: Image.Image, size: tuple[int, int], kind: MapKind) -> UInt8[np.ndarray, "H W"]:
    """Make the map of an image in bytes, 255 on a line.

    Args:
        image: Image of any mode. For "edges" it is laid on white and cropped around the middle to the ratio of the
            size; a drawing of lines is fitted inside.
        size: Width and height of the map in pixels.
        kind: What the image is.

    Raises:
        UsageError: For an image without lines or edges, or one that is no line drawing but was called so.
    """
    if kind == "lines":
        lines = line_map(image, size)
    else:
        lines = edge_maps(np.asarray(fit_image(flatten(image).convert("RGB"), size))[None])[0]
    if not lines.any():
        raise UsageError("The control image has no edges.", "all of it is of one colour", "give another image")
    return np.rint(lines * 255).astype(np.uint8)


def thicken(maps: Float32[np.ndarray, "*b H W"]) -> Float32[np.ndarray, "*b H W"]:
    """Widen lines by one pixel on each side: every pixel takes the largest of its four neighbours and itself."""
    padded = _padded(_padded(maps, -1), -2)
    middle = padded[..., 1:-1, 1:-1]
    sides = (padded[..., :-2, 1:-1], padded[..., 2:, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:])
    return np.maximum.reduce([middle, *sides])


def _brightness(image: Image.Image) -> Float32[np.ndarray, "H W"]:
    """Compute the brightness of an image, 0 to 1, on the paper that its transparency asks for."""
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    grey, alpha = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32), rgba[..., 3]
    opaque = float(alpha.sum())
    is_light = opaque > 0 and alpha.min() < 1 and float((grey * alpha).sum()) / opaque > 0.5
    return grey * alpha + (0 if is_light else 1) * (1 - alpha)


def _fitted(ink: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Scale ink to fit inside a size by averaging, centred on nothing."""
    width, height = size
    scale = min(width / ink.shape[1], height / ink.shape[0])
    inner = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    filtering = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    scaled = np.asarray(Image.fromarray(ink.astype(np.float32)).resize(inner, filtering))
    top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
    fitted = np.zeros((height, width), np.float32)
    fitted[top : top + inner[1], left : left + inner[0]] = scaled
    return fitted


def _filter(
    values: Float32[np.ndarray, "*b H W"], kernel: Float32[np.ndarray, " 3"], *, axis: int
) -> Float32[np.ndarray, "*b H W"]:
    """Correlate with a kernel of three along one axis; the border repeats."""
    padded = np.moveaxis(_padded(values, axis, mode="edge"), axis, 0)
    before, middle, after = (
        part * weight for part, weight in zip((padded[:-2], padded[1:-1], padded[2:]), kernel, strict=True)
    )
    return np.moveaxis(before + middle + after, 0, axis)


def _padded(values: np.ndarray, axis: int, *, mode: Literal["edge", "constant"] = "constant") -> np.ndarray:
    widths = [(0, 0)] * values.ndim
    widths[axis] = (1, 1)
    return np.pad(values, widths, mode=mode)


def _shifted(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return each pixel's neighbour at an offset of at most one; 0 outside."""
    padded = _padded(_padded(values, -1), -2)
    height, width = values.shape[-2:]
    return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]


def _is_ridge(
    strength: Float32[np.ndarray, "b H W"], dx: Float32[np.ndarray, "b H W"], dy: Float32[np.ndarray, "b H W"]
) -> Bool[np.ndarray, "b H W"]:
    """Whether a pixel's gradient is the largest of three along the gradient. Of two equal neighbours, one stays."""
    sector = np.round(np.arctan2(dy, dx) / (np.pi / 4)).astype(int) % 4
    ridge = np.zeros(strength.shape, bool)
    for number, (rows, columns) in enumerate(_DIRECTIONS):
        ahead, behind = _shifted(strength, rows, columns), _shifted(strength, -rows, -columns)
        ridge |= (sector == number) & (strength >= ahead) & (strength > behind)
    return ridge


def _connected(strong: Bool[np.ndarray, "b H W"], weak: Bool[np.ndarray, "b H W"]) -> Bool[np.ndarray, "b H W"]:
    """Grow strong pixels over the weak ones that touch them, until nothing changes."""
    while True:
        near = strong.copy()
        for rows in (-1, 0, 1):
            for columns in (-1, 0, 1):
                near |= _shifted(strong, rows, columns)
        grown = near & weak | strong
        if (grown == strong).all():
            return grown
        strong = grown
