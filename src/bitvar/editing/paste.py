"""Pixels that an edit must not touch: the original's outside the mask, with a feathered seam whose visibility is known.

Equal latents don't make equal pixels, since the decoder looks around, and the model's canvas is rarely as large as the
image. So an exact edit puts what was drawn back into the original.
"""

from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

from bitvar.editing.frame import Frame

_LEAST_BLUR: Final = 0.5
"""Smallest standard deviation of a seam's blur in pixels that makes a difference."""

_REACHED: Final = 0.95
"""Share of a mask's largest value that must be left after blurring."""


def paste(original: Image.Image, mask: Image.Image, drawn: Image.Image, frame: Frame, *, feather: float) -> Image.Image:
    """Put what was drawn into the original where the mask allows it.

    Args:
        original: Image in RGBA.
        mask: Grey mask of its size, 255 where it may change.
        drawn: What the model drew, of the canvas's size.
        frame: Where the canvas lies on the original.
        feather: Standard deviation of the blur of the seam, as a share of the image's longer side. It lies inside the
            mask: every pixel where the mask is 0 keeps its value.

    Returns:
        An RGBA image of the original's size.
    """
    placed = frame.place(drawn.convert("RGBA"), original)
    weight = _feathered(mask, feather * max(original.size))
    before, after = (np.asarray(image, dtype=np.float32) for image in (original, placed))
    share = np.asarray(weight, dtype=np.float32)[..., None] / 255.0
    alpha = before[..., 3:] * (1 - share) + after[..., 3:] * share
    colours = before[..., :3] * before[..., 3:] * (1 - share) + after[..., :3] * after[..., 3:] * share
    colours = colours / np.maximum(alpha, 1e-6)
    mixed = np.rint(np.concatenate([colours, alpha], axis=-1)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.where(share > 0, mixed, np.asarray(original)))


def mask_of_gate(gate: Float[Tensor, "h w"], frame: Frame) -> Image.Image:
    """Turn a gate into a grey mask of the original's size, whose edges are as soft as the gate's cells are wide.

    Args:
        gate: How far each cell of the latent may change, from 0 to 1.
        frame: Where the canvas lies on the original.
    """
    cells = Image.fromarray((gate.cpu().numpy() * 255).round().astype(np.uint8))
    canvas = cells.resize(frame.canvas_size, Image.Resampling.BILINEAR)
    return frame.place(canvas, Image.new("L", frame.image_size, 0))


def _feathered(mask: Image.Image, sigma: float) -> Image.Image:
    """Blur the inner side of a mask's edge, less where the mask is too thin for it; 0 stays 0."""
    brightest = int(np.asarray(mask).max())
    while sigma >= _LEAST_BLUR:
        shrunk = mask.filter(ImageFilter.MinFilter(2 * round(2 * sigma) + 1))
        blurred = np.asarray(shrunk.filter(ImageFilter.GaussianBlur(sigma)))
        if int(blurred.max()) >= _REACHED * brightest:
            return Image.fromarray(np.where(np.asarray(mask) == 0, 0, blurred).astype(np.uint8))
        sigma /= 2
    return mask


def seam_visibility(image: Image.Image, mask: Image.Image) -> float:
    """Measure how much the mask's edge shows: mean change across it, over the mean change one pixel to either side.

    Args:
        image: Edited image.
        mask: Grey mask of its size; its edge is where it crosses a half.

    Returns:
        1 where the edge is like its surroundings, more where it shows; 1 for a mask without an edge.
    """
    grey = np.asarray(image.convert("RGB"), dtype=np.float64).mean(axis=-1)
    inside = np.asarray(mask) >= 128
    across, beside = [], []
    for values, cells in ((grey, inside), (grey.T, inside.T)):
        change = np.abs(np.diff(values, axis=1))
        edge = cells[:, 1:] != cells[:, :-1]
        near = np.zeros_like(edge)
        near[:, 1:] |= edge[:, :-1]
        near[:, :-1] |= edge[:, 1:]
        across.append(change[edge])
        beside.append(change[near & ~edge])
    crossing, around = np.concatenate(across), np.concatenate(beside)
    if not len(crossing) or not len(around):
        return 1.0
    return float((crossing.mean() + 1.0) / (around.mean() + 1.0))
