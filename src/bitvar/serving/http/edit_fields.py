"""Fields of edits and variations: a form's texts become typed values, and those that only edits take are checked.

A form knows nothing but texts and files, so a number is "2", and true is "true". Lists have an entry for each value, as
`name[]`, and objects one for each key, as `name[key]`; both may also be one text of JSON.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StrictBool, ValidationError

from bitvar.config import Config
from bitvar.editing.masks import Convention
from bitvar.editing.spec import Method, Preset
from bitvar.serving.http.body import parse_object
from bitvar.serving.http.errors import ApiError, invalid_value, shown
from bitvar.serving.http.field_names import check_names
from bitvar.serving.http.fields import MAX_PROMPT, ImagesRequest, explained, parse_images_request, whole
from bitvar.serving.http.multipart import FormEntry

Kind: TypeAlias = Literal["edit", "variation"]

_FILES: Final = ("image", "mask")

_TEXTS: Final = frozenset(
    (
        *("prompt", "negative_prompt", "source_prompt", "model", "user", "safety_identifier", "size", "quality"),
        *("output_format", "background", "moderation", "response_format", "style", "input_fidelity", "method"),
        *("preset", "fit", "fill", "mask_convention"),
    )
)
"""Fields whose texts are taken as they are. Those of the others are JSON: numbers, true and false, lists, objects."""

_BOOLEANS: Final = frozenset({"stream", "exact_native", "exact", "mask_invert", "upscale"})

_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,60})(?:\[([A-Za-z0-9_]{0,40})\])?")

Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]
Half: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=0.5)]
Push: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100)]


class EditFields(Config):
    """What an edit takes beside the fields of a generation. None stands for a field that was not given.

    `EDIT_DESCRIPTIONS` explains each field.
    """

    input_fidelity: Literal["high", "low"] | None = None
    strength: Share | None = None
    keep_scales: Annotated[int, Field(strict=True, ge=0, le=64), BeforeValidator(whole)] | None = None
    method: Method | None = None
    source_prompt: Annotated[str, Field(strict=True, min_length=1, max_length=MAX_PROMPT)] | None = None
    preset: Preset | None = None
    threshold: Share | None = None
    confidence: Annotated[float, Field(strict=True, gt=0.5, le=1)] | None = None
    push: Push | None = None
    trust: Push | None = None
    grow: Half | None = None
    feather: Half | None = None
    upscale: StrictBool | None = None
    fill: Literal["image", "surroundings"] | None = None
    exact: StrictBool | None = None
    fit: Literal["cover", "pad"] | None = None
    mask_convention: Convention | None = None
    mask_invert: StrictBool | None = None


EDIT_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "input_fidelity": "How much of the image is kept: high keeps more of its coarse scales, low fewer.",
    "strength": "Share of the scales that are drawn anew: 0 keeps the image, 1 nothing of it.",
    "keep_scales": "Number of coarse scales to keep, in place of strength.",
    "method": "How the image changes: redraw, or one of those that compare two prompts.",
    "source_prompt": "What the image shows now, for the methods that compare it with the prompt.",
    "preset": "preserve keeps more of the image, text follows the prompt more closely.",
    "threshold": "Fall of a bit's probability, or share of the largest, from which bit-test or localized draws anew.",
    "confidence": "Probability that difference gives the image's own bits.",
    "push": "Strength with which tilt pushes away from the source prompt.",
    "trust": "Most nats between a bit's distribution after and before tilt.",
    "grow": "How far the mask is widened, as a share of the image's longer side.",
    "feather": "Width over which the mask's edge is blurred, as a share of the image's longer side.",
    "upscale": "Whether to keep what an image of its size determines, and to draw the finer scales of a larger one.",
    "fill": "What the masked part holds before it is edited: what is there, or a continuation of its surroundings.",
    "exact": "Whether the result has the image's size, and exactly its pixels outside the part that may change.",
    "fit": "How an image of another ratio is brought to the model's size: cropped to cover it, or padded.",
    "mask_convention": "What marks the part to change: alpha (transparent there), white, or auto for the first it has.",
    "mask_invert": "Whether the mask marks the part to keep.",
}
"""What each field means, for the schema."""

_EXPECTED: Final[Mapping[str, str]] = {
    "input_fidelity": "high or low",
    "strength": "a number from 0 to 1",
    "keep_scales": "a whole number from 0 to 64",
    "method": "redraw, localized, inversion, bit-test, difference or tilt",
    "source_prompt": f"text of 1 to {MAX_PROMPT:,} characters",
    "preset": "preserve or text",
    "threshold": "a number from 0 to 1",
    "confidence": "a number above 0.5, at most 1",
    "push": "a number from 0 to 100",
    "trust": "a number from 0 to 100",
    "grow": "a number from 0 to 0.5",
    "feather": "a number from 0 to 0.5",
    "upscale": "true or false",
    "fill": "image or surroundings",
    "exact": "true or false",
    "fit": "cover or pad",
    "mask_convention": "alpha, white or auto",
    "mask_invert": "true or false",
}

_EDIT_ONLY: Final = (
    "prompt", "mask", "mask_convention", "mask_invert", "exact", "grow", "feather", "input_fidelity", "stream",
    "partial_images", "preview_size", "method", "source_prompt", "preset", "threshold", "confidence", "push", "trust",
    "upscale", "fill",
)  # fmt: skip
"""Fields that a variation doesn't take."""


@dataclass(frozen=True)
class EditRequest:
    """An edit or a variation as it came, checked as far as that needs neither pixels nor the model.

    Attributes:
        kind: Which of the two.
        image: Bytes of the file to edit.
        mask: Bytes of the mask; None without one.
        fields: What only edits take.
        common: What generations take too, by name; `images_request` checks it.
    """

    kind: Kind
    image: bytes = field(repr=False)
    mask: bytes | None = field(repr=False)
    fields: EditFields
    common: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The prompt, blank if there is none."""
        return str(self.common.get("prompt", ""))

    def images_request(self, prompt: str) -> ImagesRequest:
        """Return the fields that generations take too.

        Args:
            prompt: What a missing or blank prompt stands for; it may be blank.
        """
        return parse_images_request(self.common, prompt=prompt)


def parse_edit(entries: Sequence[FormEntry], kind: Kind) -> EditRequest:
    """Read the entries of a form.

    Raises:
        ApiError: A field is unknown, unsupported, given twice, wrong, or missing.
    """
    files, values = _collect(entries)
    names = list(dict.fromkeys((*values, *files)))
    known = {*ImagesRequest.model_fields, *EditFields.model_fields, *_FILES}
    if kind == "variation":
        for name in _EDIT_ONLY:
            if name in names:
                message = f"{name} is not supported by variations: send it to /v1/images/edits."
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        known -= set(_EDIT_ONLY)
    for name in _FILES:
        if name in values:
            why = "it must be a file, and came as text; this server fetches no URL"
            raise invalid_value(f"{name} can't be read: {why}.", name)
    check_names(names, known, edits=True)
    image, mask = _one_image(files), files.get("mask", [None])
    if len(mask) > 1:
        raise invalid_value("mask is given twice; it belongs to the one image.", "mask")
    mine = {name: value for name, value in values.items() if name in EditFields.model_fields}
    common = {name: value for name, value in values.items() if name in ImagesRequest.model_fields}
    request = EditRequest(kind, image, mask[0], check_edit_fields(mine), common)
    request.images_request("")  # a wrong value is refused before the image is looked at
    return request


def check_edit_fields(values: Mapping[str, Any]) -> EditFields:
    """Check the fields that only edits take.

    Raises:
        ApiError: A value is wrong.
    """
    try:
        return EditFields.model_validate(values)
    except ValidationError as error:
        raise explained(error, values, EditFields, _EXPECTED) from None


def _one_image(files: Mapping[str, list[bytes]]) -> bytes:
    images = files.get("image", [])
    if not images:
        message = "image is missing; send the image to edit as a file."
        raise ApiError(400, message, param="image", code="missing_required_parameter")
    if len(images) > 1:
        message = f"image was given {len(images)} times: this server edits one image, and doesn't combine several."
        raise invalid_value(message, "image")
    return images[0]


def _collect(entries: Sequence[FormEntry]) -> tuple[dict[str, list[bytes]], dict[str, Any]]:
    """Collect files and typed values by the plain name of their field. Empty texts are fields that were not given."""
    files: dict[str, list[bytes]] = {}
    values: dict[str, Any] = {}
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None:
            raise ApiError(400, f"Unknown field {shown(entry.name)}.", param=entry.name, code="unknown_parameter")
        name, key = match[1], match[2]
        if entry.is_file and name in _FILES:
            if key is None and name in files:
                raise invalid_value(f"{name} is given twice.", name)
            files.setdefault(name, []).append(entry.data)
        elif entry.is_file:
            raise invalid_value(f"{name} must be text, and came as a file.", name)
        elif text := entry.text():
            _add(values, name, key, text)
    return files, values


def _add(values: dict[str, Any], name: str, key: str | None, text: str) -> None:
    value = text if name in _TEXTS or key == "name" else _typed(text, name)
    if key is None:
        if name in values:
            raise invalid_value(f"{name} is given twice.", name)
        values[name] = value
    elif key == "":
        given = values.setdefault(name, [])
        if not isinstance(given, list):
            raise invalid_value(f"{name} is given twice.", name)
        given.append(value)
    else:
        given = values.setdefault(name, {})
        if not isinstance(given, dict) or key in given:
            raise invalid_value(f"{name} is given twice.", name)
        given[key] = value


def _typed(text: str, name: str) -> Any:
    """Read a text as JSON; one that is none stays a text, which its field then refuses."""
    text = text.strip()
    if name in _BOOLEANS:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        read = parse_object(b'{"value": ' + text.encode("utf-8") + b"}")
    except ApiError:
        return text
    return read["value"] if list(read) == ["value"] else text


def names_of(kind: Kind) -> Collection[str]:
    """List the fields that a route takes, files included, in order."""
    fields = [*_FILES, *ImagesRequest.model_fields, *EditFields.model_fields]
    return [name for name in fields if kind == "edit" or name not in _EDIT_ONLY]
