"""Where the model's canvas lies on the image that is edited, and the way there and back."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """The part of an image that the model sees.

    Attributes:
        image_size: Width and height of the image.
        canvas_size: Width and height at which the model draws.
        box: Left, top, right and bottom of the canvas in pixels of the image; beyond its sides where it is padded.
    """

    image_size: Size
    canvas_size: Size
    box: tuple[int, int, int, int]

    @staticmethod
    def fit(image_size: Size, canvas_size: Size, how: Literal["cover", "pad"]) -> "Frame":
        """Place the canvas around the middle of an image: within it to cover the canvas, or around all of it to pad."""
        width, height = image_size
        ratio = canvas_size[0] / canvas_size[1]
        if (width / height > ratio) == (how == "cover"):
            shown = (max(1, round(height * ratio)), height)
        else:
            shown = (width, max(1, round(width / ratio)))
        left, top = (width - shown[0]) // 2, (height - shown[1]) // 2
        return Frame(image_size, canvas_size, (left, top, left + shown[0], top + shown[1]))

    def view(self, image: Image.Image) -> Image.Image:
        """Show an image as the model sees it: the box, resized to the canvas, with edges repeated beyond its sides."""
        left, top, right, bottom = self.box
        width, height = self.image_size
        beyond = (max(0, -left), max(0, -top), max(0, right - width), max(0, bottom - height))
        if any(beyond):
            rows, columns = (beyond[1], beyond[3]), (beyond[0], beyond[2])
            array = np.asarray(image)
            image = Image.fromarray(np.pad(array, (rows, columns, *((0, 0),) * (array.ndim - 2)), mode="edge"))
        box = (left + beyond[0], top + beyond[1], right + beyond[0], bottom + beyond[1])
        if image.size == self.canvas_size == (box[2] - box[0], box[3] - box[1]):
            return image
        return image.resize(self.canvas_size, Image.Resampling.LANCZOS, box=box)

    def view_mask(self, mask: Image.Image) -> Image.Image:
        """Show a grey mask as the model sees it; what lies beyond the image stays as it is."""
        cut = mask.crop(self.box)  # 0 beyond its sides
        return cut if cut.size == self.canvas_size else cut.resize(self.canvas_size, Image.Resampling.BOX)

    def place(self, canvas: Image.Image, image: Image.Image) -> Image.Image:
        """Put what the model drew back where its canvas lies on an image."""
        left, top, right, bottom = self.box
        placed = image.copy()
        placed.paste(canvas.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
        return placed
