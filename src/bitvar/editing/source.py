"""The image that is edited: decoded, brought to the model's canvas, and encoded to the bits of every scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from bitvar.editing.fill import fill_masked
from bitvar.editing.frame import Frame, Size
from bitvar.editing.gate import GROW
from bitvar.editing.images import open_rgba
from bitvar.editing.masks import read_mask
from bitvar.editing.spec import EditSpec
from bitvar.imaging.convert import from_pil
from bitvar.scales import Grid
from bitvar.tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Original:
    """The images of an edit as they were given.

    Attributes:
        image: Image in upright sRGB with straight alpha.
        mask: Grey mask of its size, 255 where it may change; None for everywhere.
    """

    image: Image.Image
    mask: Image.Image | None

    @staticmethod
    def read(spec: EditSpec) -> "Original":
        """Decode the images of an edit.

        Raises:
            UsageError: for an image that can't be used, or a mask that doesn't fit or selects nothing.
        """
        image = open_rgba(spec.image.decode(), "the image to edit")
        if spec.mask is None:
            return Original(image, None)
        return Original(image, read_mask(open_rgba(spec.mask.decode(), "the mask"), image.size, convention="white"))


@dataclass(frozen=True)
class EditSource:
    """An image on the model's canvas, as bits.

    Attributes:
        original: Image and mask as they were given.
        frame: Where the canvas lies on the image.
        bits: Bits of every scale, `(1, d, h_k, w_k)` in tokenizer cells.
    """

    original: Original
    frame: Frame
    bits: tuple[Bool[Tensor, "1 d _ _"], ...]

    @staticmethod
    def encode(original: Original, spec: EditSpec, tokenizer: ImageTokenizer, grids: Sequence[Grid]) -> "EditSource":
        """Encode an image at the grids of a schedule.

        Args:
            original: Image and mask.
            spec: The edit, which says how the image is brought to the canvas.
            tokenizer: Tokenizer of the model.
            grids: Grid of every scale, in tokenizer cells.

        Raises:
            ComputationError: when the tokenizer computes NaN or infinity.
        """
        stride = tokenizer.config.stride
        canvas: Size = (grids[-1][1] * stride, grids[-1][0] * stride)
        around = None if original.mask is None else original.mask.getbbox()
        frame = Frame.fit(original.image.size, canvas, spec.fit, around=around)
        image = original.image
        if spec.fill == "surroundings" and original.mask is not None:
            image = fill_masked(image, original.mask, grow=GROW if spec.grow is None else spec.grow)
        pixels = from_pil([frame.view(image)], channels=tokenizer.config.image_channels)
        with torch.inference_mode():
            features = tokenizer.features(pixels.to(tokenizer.device))
            bits = tuple(step.bits for step in tokenizer.encode_scales(features, grids))
        return EditSource(original, frame, bits)
