"""The image and the mask of an edit: decoded to check them, and turned with the fields into an `EditSpec`.

Everything here works on pixels, so it belongs into a thread. It knows neither the model nor HTTP.
"""

import io
import re
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from PIL import Image

from bitvar.editing.images import open_rgba
from bitvar.editing.masks import Convention, invert, read_mask
from bitvar.editing.spec import EditSpec, EncodedImage, Method
from bitvar.errors import UsageError
from bitvar.pipeline.record import find_record
from bitvar.serving.http.edit_fields import EditFields
from bitvar.serving.http.errors import ApiError, from_usage, invalid_value

MAX_EXACT_PIXELS: Final = 1 << 24
"""Most pixels of an image that is worked on at its own size: 4096 x 4096."""

MAX_EXACT_SIDE: Final = 16_383
"""Longest side of such an image, which every format of a result can have."""

_COMPARING: Final = tuple(method for method in get_args(Method) if method != "redraw")
_DECIDING: Final = ("method", "strength", "keep_scales", "upscale", "source_prompt")
"""Fields of which any leaves nothing to decide about the method."""

_SHARED: Final = tuple(name for name in EditFields.model_fields if name in EditSpec.model_fields)


@dataclass(frozen=True)
class EditInput:
    """An edit whose images can be used.

    Attributes:
        spec: What to keep and to change.
        size: Width and height of the image, turned upright.
        has_alpha: Whether a part of it is transparent.
        prompt: What to draw: the request's prompt, else the one that the image was made from, else blank for no text.
        warnings: Sentences for the user.
    """

    spec: EditSpec
    size: tuple[int, int]
    has_alpha: bool
    prompt: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def worked_pixels(self) -> int:
        """Number of pixels of the image if it is worked on at its own size, else 0."""
        is_worked_on = self.spec.exact or self.spec.fill != "image"
        return self.size[0] * self.size[1] if is_worked_on else 0


def read_input(
    image: bytes,
    mask: bytes | None,
    fields: EditFields,
    *,
    prompt: str,
    image_param: str = "image",
    mask_param: str = "mask",
) -> EditInput:
    """Decode the images of an edit, and check that they go together.

    Args:
        image: Bytes of the image to edit.
        mask: Bytes of its mask; None for everywhere.
        fields: What else the request says of the edit.
        prompt: Prompt of the request; it may be blank.
        image_param, mask_param: Fields that the images came from, for errors.

    Raises:
        ApiError: An image can't be used, or fields contradict each other.
    """
    try:
        decoded = open_rgba(image, "the image")
    except UsageError as error:
        raise from_usage(error, param=image_param) from None
    values: dict[str, Any] = {name: getattr(fields, name) for name in _SHARED if getattr(fields, name) is not None}
    record, warnings = find_record(image), list[str]()
    own_prompt = "" if record is None else record.prompt.strip()
    is_free = mask is None and not any(getattr(fields, name) is not None for name in _DECIDING)
    is_other = prompt.strip() not in ("", own_prompt)
    if own_prompt and fields.source_prompt is None and (fields.method in _COMPARING or (is_free and is_other)):
        values["source_prompt"] = own_prompt
        rule = "; what the prompts disagree on changes, and strength redraws all of it" if is_free else ""
        warnings.append(f"The source prompt is the image's own, from its settings{rule}.")
    if not prompt.strip():
        prompt = own_prompt
        rule = "the image's own was used, from its settings" if own_prompt else "the image changes without one"
        warnings.append(f"No prompt was sent: {rule}.")
    if mask is not None:
        grey = _read_mask(mask, decoded.size, fields, mask_param)
        values["mask"] = EncodedImage.of(_png(grey))
    elif fields.mask_convention is not None or fields.mask_invert is not None:
        name = "mask_invert" if fields.mask_convention is None else "mask_convention"
        raise invalid_value(f"{name} says how to read a mask, and there is none; send mask, or leave it out.", name)
    for name in ("exact", "fill"):
        if getattr(fields, name) not in (None, False, "image"):
            _check_pixels(decoded.size, name)
    preset = _preset(fields, has_mask=mask is not None)
    if preset is not None:
        values["preset"] = preset
    try:
        spec = EditSpec.parse({"image": EncodedImage.of(image), **values}, source="the request")
    except UsageError as error:
        raise _inconsistent(str(error)) from None
    has_alpha = int(np.asarray(decoded.getchannel("A")).min()) < 255
    return EditInput(spec, decoded.size, has_alpha, prompt, tuple(warnings))


def _read_mask(data: bytes, size: tuple[int, int], fields: EditFields, param: str) -> Image.Image:
    convention: Convention = fields.mask_convention or "alpha"
    try:
        mask = open_rgba(data, "the mask")
        if convention == "alpha" and mask.size == size and int(np.asarray(mask.getchannel("A")).min()) == 255:
            message = (
                "The mask has no transparent part, which says where the image may change. Erase that part, or send "
                "mask_convention white if it is white there."
            )
            raise invalid_value(message, param)
        grey = read_mask(mask, size, convention=convention)
    except UsageError as error:
        raise from_usage(error, param=param) from None
    if not fields.mask_invert:
        return grey
    kept = invert(grey)
    if int(np.asarray(kept).max()) == 0:
        raise invalid_value("The mask selects nothing once it is inverted; leave a part of it unmarked.", param)
    return kept


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_EXACT_PIXELS or max(size) > MAX_EXACT_SIDE:
        message = (
            f"{name} works on images of at most {MAX_EXACT_PIXELS:,} pixels and {MAX_EXACT_SIDE:,} a side, and this "
            f"one is {size[0]}x{size[1]}. Send a smaller one, or leave {name} out."
        )
        raise invalid_value(message, name)


def _preset(fields: EditFields, *, has_mask: bool) -> str | None:
    """What input_fidelity stands for: high keeps more coarse scales, and low few; within a mask it keeps none."""
    if fields.input_fidelity is None:
        return None
    for name in ("strength", "keep_scales", "upscale", "preset"):
        if getattr(fields, name) is not None:
            message = f"input_fidelity and {name} both say how much is kept: send one of them."
            raise invalid_value(message, "input_fidelity")
    if fields.input_fidelity == "high":
        return "preserve"
    return None if has_mask else "text"


def _inconsistent(message: str) -> ApiError:
    """Say why fields don't go together, with the first of them that the reason names; a method's name stands for it."""
    why = re.search("why:\\s*(.*)", message)
    reason = message.splitlines()[0] if why is None else why[1]
    names = {**dict.fromkeys(_COMPARING, "method"), **{name: name for name in EditFields.model_fields}}
    param = next((names[word] for word in re.findall("[a-z_-]+", reason) if word in names), None)
    return invalid_value(f"{reason.rstrip('.')}.", param)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
