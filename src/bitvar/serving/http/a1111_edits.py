"""A1111's img2img: its image, its mask and what it says of them, as the same edit in our terms.

What txt2img has too is read by `a1111_fields`. In A1111 a mask is white where the image changes, and what lies outside
it keeps its pixels; so does it here where the result has the size of the image.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from bitvar.config import Config
from bitvar.editing.images import LIMITS
from bitvar.imaging.open import RefusedError, open_image, seen_size
from bitvar.serving.http.a1111_fields import without_adapters
from bitvar.serving.http.edit_fields import EditFields
from bitvar.serving.http.edit_input import MAX_EXACT_PIXELS, EditInput, read_input
from bitvar.serving.http.errors import invalid_value, shown

USUAL_STRENGTH: Final = 0.75
"""A1111's own `denoising_strength` where a request names none."""

_DATA_URL: Final = re.compile(r"data:[A-Za-z0-9.+/-]{0,80}(?:;[A-Za-z0-9=.-]{0,80})*,")
_PAD: Final = 2
"""A1111's `resize_mode` that fills an image up to another ratio; the others crop it."""


class ImageFields(Config):
    """The fields of img2img that have an effect here beside those of txt2img.

    Attributes:
        init_images: The image to edit, alone in a list: base64 of a file, or a data URL.
        mask: Mask of its size, white where the image changes, in the same form.
        denoising_strength: Share of the scales that are drawn anew.
        inpainting_mask_invert: Whether the mask is white where the image stays.
        mask_blur: Width in pixels over which the mask's edge is blurred.
        resize_mode: 2 pads an image of another ratio; other values crop it.
    """

    init_images: Annotated[list[Any], Field(max_length=64)]
    mask: str | None = None
    denoising_strength: Annotated[float, Field(ge=0, le=1)] = USUAL_STRENGTH
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] = 0
    mask_blur: Annotated[float, Field(ge=0, le=4096)] | None = None
    resize_mode: Annotated[int, Field(ge=0, le=3)] = 0

    def parameters(self) -> dict[str, Any]:
        """The fields as an answer repeats them: without the images."""
        return {**self.model_dump(mode="json"), "init_images": None, "mask": None}


_EXPECTED: Final[Mapping[str, str]] = {
    "init_images": "a list with one image as base64",
    "mask": "an image as base64",
    "denoising_strength": "a number from 0 to 1",
    "inpainting_mask_invert": "0 or 1",
    "mask_blur": "a number of pixels from 0 to 4096",
    "resize_mode": "a whole number from 0 to 3",
}


@dataclass(frozen=True)
class ImageInput:
    """The image of an img2img request.

    Attributes:
        fields: Its fields as they came.
        source: The same edit in our terms.
        values: The request's values to read further. Where the result has the size of the image, they name no size.
    """

    fields: ImageFields
    source: EditInput
    values: Mapping[str, Any]


def read_image_input(values: Mapping[str, Any]) -> ImageInput:
    """Read the image and the mask of a request. It decodes pixels, so it belongs into a thread.

    Args:
        values: Values by field, as JSON has them.

    Raises:
        ApiError: A value is wrong, or an image can't be used.
    """
    fields = _parse(values)
    if len(fields.init_images) != 1:
        message = f"init_images must have one image, got {len(fields.init_images)}; this server edits one at a time."
        raise invalid_value(message, "init_images")
    image = _decoded(fields.init_images[0], "init_images")
    mask = None if fields.mask is None else _decoded(fields.mask, "mask")
    size = _size_of(image)
    asked = values.get("width"), values.get("height")
    is_exact = mask is not None and asked in ((None, None), size)
    is_pasted = is_exact and size[0] * size[1] <= MAX_EXACT_PIXELS
    given: dict[str, Any] = {"strength": fields.denoising_strength, "exact": is_pasted}
    if mask is not None:
        given |= {"mask_convention": "white", "mask_invert": bool(fields.inpainting_mask_invert)}
        if fields.mask_blur is not None:
            given["feather"] = min(0.5, fields.mask_blur / max(size))
    given["fit"] = "pad" if fields.resize_mode == _PAD else "cover"
    prompt = values.get("prompt")
    text = without_adapters(prompt)[0] if isinstance(prompt, str) else ""
    source = read_input(
        image, mask, EditFields.model_validate(given), prompt=text, image_param="init_images", mask_param="mask"
    )
    if is_exact and not is_pasted:
        warning = f"Pixels outside the mask change a little: they are kept up to {MAX_EXACT_PIXELS:,} pixels."
        source = replace(source, warnings=(*source.warnings, warning))
    if is_pasted:
        values = {name: value for name, value in values.items() if name not in ("width", "height")}
    return ImageInput(fields, source, values)


def _parse(values: Mapping[str, Any]) -> ImageFields:
    known = {name: values[name] for name in ImageFields.model_fields if values.get(name) is not None}
    if "init_images" not in known:
        raise invalid_value("init_images is missing; send the image to edit, as base64 in a list.", "init_images")
    try:
        return ImageFields.model_validate(known)
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"][0])
    raise invalid_value(f"{name} must be {_EXPECTED[name]}, got {shown(known[name])}.", name)


def _decoded(text: Any, param: str) -> bytes:
    """Decode base64, with or without the head of a data URL."""
    if not isinstance(text, str):
        raise invalid_value(f"{param} must be {_EXPECTED[param]}, got {shown(text)}.", param)
    head = _DATA_URL.match(text[:400])
    plain = text[head.end() :] if head else text
    if plain[:8].lower().startswith(("http:", "https:", "file:")):
        raise invalid_value(f"{param} must be {_EXPECTED[param]}; this server fetches no URL.", param)
    plain = "".join(plain.split())
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_value(f"{param} must be {_EXPECTED[param]}, and this is no base64.", param) from None


def _size_of(image: bytes) -> tuple[int, int]:
    try:
        return seen_size(open_image(image, LIMITS))
    except RefusedError as error:
        message = f"The image can't be used: {error}. Send a PNG, WebP or JPEG image."
        raise invalid_value(message, "init_images") from None
