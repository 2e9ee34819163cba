"""Where the model's canvas lies on the image that is edited, and the way there and back."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Frame:
    """The part of an image that the model sees.

    Attributes:
        image_size: Width and height of the image.
        canvas_size: Width and height at which the model draws.
        box: Where the canvas lies on the image; it reaches beyond the image where that is padded.
    """

    image_size: Size
    canvas_size: Size
    box: Box

    @staticmethod
    def fit(
        image_size: Size, canvas_size: Size, how: Literal["cover", "pad"] | None = None, *, around: Box | None = None
    ) -> "Frame":
        """Place the canvas on an image.

        Args:
            image_size: Width and height of the image.
            canvas_size: Width and height at which the model draws.
            how: "cover" places it within the image, "pad" around all of it; None covers unless that would leave out a
                part of `around`.
            around: Part of the image that the canvas should hold, if it fits; None for the middle.
        """
        width, height = image_size
        ratio = canvas_size[0] / canvas_size[1]
        covered = (
            (max(1, round(height * ratio)), height) if width / height > ratio else (width, max(1, round(width / ratio)))
        )
        if how is None:
            fits = around is None or (around[2] - around[0] <= covered[0] and around[3] - around[1] <= covered[1])
            how = "cover" if fits else "pad"
        if how == "cover":
            middle = around or (0, 0, width, height)
            left = _start(middle[0] + middle[2], covered[0], width)
            top = _start(middle[1] + middle[3], covered[1], height)
            return Frame(image_size, canvas_size, (left, top, left + covered[0], top + covered[1]))
        whole = (
            (width, max(1, round(width / ratio))) if width / height > ratio else (max(1, round(height * ratio)), height)
        )
        left, top = (width - whole[0]) // 2, (height - whole[1]) // 2
        return Frame(image_size, canvas_size, (left, top, left + whole[0], top + whole[1]))

    @property
    def visible(self) -> Box:
        """The part of the image that lies on the canvas."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(self.image_size[0], right), min(self.image_size[1], bottom)

    @property
    def inner(self) -> Box:
        """Where that part lies on the canvas, in whole pixels of it, at least one each way."""
        (left, top, right, bottom), (width, height) = self.box, self.canvas_size
        across, down = width / (right - left), height / (bottom - top)
        seen = self.visible
        x0, x1 = _span((seen[0] - left) * across, (seen[2] - left) * across, width)
        y0, y1 = _span((seen[1] - top) * down, (seen[3] - top) * down, height)
        return x0, y0, x1, y1

    def view(self, image: Image.Image) -> Image.Image:
        """Show an image as the model sees it: resized to the canvas, with its edges repeated where it is padded."""
        x0, y0, x1, y1 = self.inner
        size = (x1 - x0, y1 - y0)
        seen = self.visible
        same = size == (seen[2] - seen[0], seen[3] - seen[1])
        part = image.crop(seen) if same else image.resize(size, Image.Resampling.LANCZOS, box=seen)
        if size == self.canvas_size:
            return part
        edges = ((y0, self.canvas_size[1] - y1), (x0, self.canvas_size[0] - x1))
        array = np.asarray(part)
        return Image.fromarray(np.pad(array, (*edges, *((0, 0),) * (array.ndim - 2)), mode="edge"))

    def view_mask(self, mask: Image.Image) -> Image.Image:
        """Show a grey mask as the model sees it: each pixel takes the largest value that it covers; 0 off the image."""
        x0, y0, x1, y1 = self.inner
        part = np.asarray(mask.crop(self.visible))
        rows, columns = y1 - y0, x1 - x0
        if part.shape[0] > rows or part.shape[1] > columns:
            values = torch.from_numpy(part.astype(np.float32))[None, None]
            smaller = F.adaptive_max_pool2d(values, (min(rows, part.shape[0]), min(columns, part.shape[1])))
            part = smaller[0, 0].numpy().astype(np.uint8)
        canvas = Image.new("L", self.canvas_size, 0)
        canvas.paste(Image.fromarray(part).resize((columns, rows), Image.Resampling.NEAREST), (x0, y0))
        return canvas

    def place(self, canvas: Image.Image, image: Image.Image) -> Image.Image:
        """Put what the model drew back where its canvas lies on an image."""
        left, top, right, bottom = self.visible
        placed = image.copy()
        placed.paste(canvas.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=self.inner), (left, top))
        return placed


def _start(ends: int, length: int, side: int) -> int:
    """Return where a window of a length begins whose middle is that of two ends, if it must stay within a side."""
    return min(max(0, (ends - length) // 2), side - length)


def _span(start: float, end: float, length: int) -> tuple[int, int]:
    first = min(round(start), length - 1)
    return first, max(first + 1, min(length, round(end)))
