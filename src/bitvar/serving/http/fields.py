"""Fields of an image request: their types and bounds, strictly checked, and their JSON schema.

What depends on the model, such as the length of a list per scale, is checked in `plan`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StrictBool, ValidationError

from bitvar.config import Config
from bitvar.sampling.params import MAX_SEED, MAX_TOP_K
from bitvar.serving.http.errors import ApiError, invalid_value, shown
from bitvar.serving.http.field_names import check_names
from bitvar.serving.http.sizes import MAX_SIDE, parse_size

MAX_PROMPT: Final = 32_000
MAX_N: Final = 10
MAX_ADAPTERS: Final = 8
MAX_PREVIEWS: Final = 63
MAX_NAME: Final = 256
MAX_SCALES: Final = 64
SIZE_PATTERN: Final = "^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$"


def whole(value: Any) -> Any:
    """A number such as 2.0 as the integer that it is: JSON has one kind of number. Nothing else is converted."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sequence(value: Any) -> Any:
    """A list as the tuple that a frozen value needs; one that is too long for any field only as far as shows it."""
    return tuple(value[: MAX_SCALES + 1]) if isinstance(value, list) else value


def _small_object(value: Any) -> Any:
    """An adapter's object. One of thousands of keys is refused at once, not key by key."""
    if isinstance(value, Mapping) and len(value) > 2:
        raise ValueError("it has two keys: name and scale")
    return value


Number: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100)]
Numbers: TypeAlias = Annotated[
    tuple[Number, ...], Field(min_length=1, max_length=MAX_SCALES), BeforeValidator(_sequence)
]
Seed: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED), BeforeValidator(whole)]
Seeds: TypeAlias = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MAX_N), BeforeValidator(_sequence)]
Text: TypeAlias = Annotated[str, Field(strict=True)]
Side: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE), BeforeValidator(whole)]


class LoraChoice(Config):
    """An adapter of the server.

    Attributes:
        name: Name under which the server loaded it.
        scale: Weight to apply it at.
    """

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    scale: Annotated[float, Field(strict=True, ge=-100, le=100)] | None = None


Lora: TypeAlias = Annotated[LoraChoice, BeforeValidator(_small_object)]
Loras: TypeAlias = Annotated[tuple[Lora, ...], Field(max_length=MAX_ADAPTERS), BeforeValidator(_sequence)]


class ImagesRequest(Config):
    """A request for images. None stands for a field that was not given; null in a body means the same.

    `DESCRIPTIONS` explains each field.
    """

    prompt: Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT, json_schema_extra={"pattern": r"\S"})]
    model: Annotated[Text, Field(max_length=MAX_NAME)] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=MAX_N), BeforeValidator(whole)] | None = None
    size: Annotated[Text, Field(json_schema_extra={"pattern": "^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$"})] | None = (
        None
    )
    quality: Literal["low", "medium", "high", "auto", "standard", "hd"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    output_compression: Annotated[int, Field(strict=True, ge=0, le=100), BeforeValidator(whole)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    moderation: Literal["low", "auto"] | None = None
    stream: StrictBool | None = None
    partial_images: Annotated[int, Field(strict=True, ge=0, le=MAX_PREVIEWS), BeforeValidator(whole)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    style: Literal["vivid", "natural"] | None = None
    user: Annotated[Text, Field(max_length=MAX_NAME)] | None = None
    safety_identifier: Annotated[Text, Field(max_length=MAX_NAME)] | None = None
    seed: Seed | Seeds | None = None
    negative_prompt: Annotated[Text, Field(max_length=MAX_PROMPT)] | None = None
    guidance_scale: Number | Numbers | None = None
    guidance_schedule: Numbers | None = None
    width: Side | None = None
    height: Side | None = None
    lora: Lora | Loras | None = None
    temperature: Number | Numbers | None = None
    top_k: Annotated[int, Field(strict=True, ge=0, le=MAX_TOP_K), BeforeValidator(whole)] | None = None
    top_p: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    preview_size: Annotated[int, Field(strict=True, ge=16, le=4096), BeforeValidator(whole)] | None = None
    exact_native: StrictBool | None = None


_TEXT_ID: Final = f"text of at most {MAX_NAME} characters"
_PER_SCALE: Final = "a number from 0 to 100, or a list with one for each scale"
_SIDE: Final = "a whole number of pixels from 1 to 3840"
_BOOLEAN: Final = "true or false"

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "prompt": "Text to draw.",
    "model": "Name of the model; empty for the served one.",
    "n": "Number of images.",
    "size": "Size of the file: both sides multiples of 16, ratio from 1:3 to 3:1, at most 3840x2160 pixels.",
    "quality": "How large the model draws where size leaves it open.",
    "output_format": "Format of the file.",
    "output_compression": "Quality of WebP and JPEG; PNG takes 100 alone.",
    "background": "Whether the background is transparent; not every model can draw that.",
    "moderation": "How strictly the server's safety check judges.",
    "stream": "Whether to answer with a stream of events, for a single image.",
    "partial_images": "Number of previews in the stream: 0 to 3, or up to the number of scales less one.",
    "response_format": "Whether the answer carries images or their URLs.",
    "style": "Accepted for old clients; without effect.",
    "user": "Id of the person that the request is made for; safety_identifier replaces it.",
    "safety_identifier": "Id of the person that the request is made for.",
    "seed": "Seed of the first image, counting up, or a list with one for each image.",
    "negative_prompt": "Text that guidance steers away from; needs guidance.",
    "guidance_scale": "Strength of guidance; 1 turns it off. A list has one value for each scale.",
    "guidance_schedule": "Strength of guidance at each scale, in place of guidance_scale.",
    "width": "Width of the file; with height, in place of size.",
    "height": "Height of the file; with width, in place of size.",
    "lora": "Adapters of the server to apply, in order.",
    "temperature": "Divisor of the logits; 0 always takes the likelier value. A list has one value for each scale.",
    "top_k": "Number of values kept of a bit's two: 1 is greedy; 0, and more than 1, keep both.",
    "top_p": "Probability from which the likelier value of a bit is certain; 0 turns it off.",
    "preview_size": "Longer side of a preview in pixels.",
    "exact_native": "Whether to refuse a size that the model doesn't draw itself.",
}
"""What each field means, for the schema."""

_EXPECTED: Final[Mapping[str, str]] = {
    "prompt": f"text of 1 to {MAX_PROMPT:,} characters that isn't blank",
    "model": _TEXT_ID,
    "n": f"a whole number from 1 to {MAX_N}",
    "size": "auto, or width and height in pixels such as 1024x1024",
    "quality": "low, medium, high, standard, hd or auto",
    "output_format": "png, webp or jpeg",
    "output_compression": "a whole number from 0 to 100",
    "background": "transparent, opaque or auto",
    "moderation": "low or auto",
    "stream": _BOOLEAN,
    "partial_images": "a whole number from 0 to 3, or up to the number of scales less one",
    "response_format": "url or b64_json",
    "style": "vivid or natural",
    "user": _TEXT_ID,
    "safety_identifier": _TEXT_ID,
    "seed": f"a whole number from 0 to 2^63 - 1, or a list of 1 to {MAX_N}",
    "negative_prompt": f"text of at most {MAX_PROMPT:,} characters",
    "guidance_scale": _PER_SCALE,
    "guidance_schedule": "a list with a number from 0 to 100 for each scale",
    "width": _SIDE,
    "height": _SIDE,
    "lora": f"an object with name and scale (a number from -100 to 100), or a list of at most {MAX_ADAPTERS}",
    "temperature": _PER_SCALE,
    "top_k": f"a whole number from 0 to {MAX_TOP_K:,}",
    "top_p": "a number from 0 to 1",
    "preview_size": "a whole number of pixels from 16 to 4096",
    "exact_native": _BOOLEAN,
}
"""What each field takes, as the end of a sentence."""

_REFUSED_VALUES: Final[Mapping[tuple[str, str], str]] = {
    ("quality", "xhigh"): "this server has no such quality; high draws at the largest size of the model",
    ("quality", "max"): "this server has no such quality; high draws at the largest size of the model",
    ("output_format", "gif"): "this server draws still images",
    ("output_format", "svg"): "the model draws pixels, not shapes",
    ("output_format", "jpg"): "the format is called jpeg",
}
"""Values that other servers take, with the reason why this one doesn't."""

_NOT_ECHOED: Final = ("prompt", "negative_prompt", "source_prompt", "user", "safety_identifier")
"""Fields whose values belong in no message, since messages are logged."""


def parse_images_request(values: Mapping[str, Any], *, prompt: str | None = None) -> ImagesRequest:
    """Check the fields of a request.

    Args:
        values: Values by field, as JSON has them.
        prompt: What a missing or blank prompt stands for, which may be blank too; None refuses it.

    Raises:
        ApiError: A field is unknown or unsupported, a value is wrong, or the prompt is missing.
    """
    check_names(values, ImagesRequest.model_fields)
    given = {name: value for name, value in values.items() if value is not None}
    if prompt is not None and not str(given.get("prompt", "")).strip():
        return parse_images_request({**given, "prompt": "none"}).model_copy(update={"prompt": prompt})
    if "prompt" not in given:
        message = 'prompt is missing; say what to draw, such as "a red apple".'
        raise ApiError(400, message, param="prompt", code="missing_required_parameter")
    if isinstance(given["prompt"], str) and not given["prompt"].strip():
        raise invalid_value('prompt is blank; say what to draw, such as "a red apple".', "prompt")
    try:
        request = ImagesRequest.model_validate(given)
    except ValidationError as error:
        raise explained(error, given, ImagesRequest, _EXPECTED) from None
    if request.size is not None:
        parse_size(request.size)
    return request


def explained(
    error: ValidationError, given: Mapping[str, Any], model: type[Config], expected: Mapping[str, str]
) -> ApiError:
    """Say what the first wrong field takes, and what it was given.

    Args:
        error: What pydantic found.
        given: Values by field.
        model: Model of the fields.
        expected: What each field takes, as the end of a sentence.
    """
    order = list(model.model_fields)
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    name = min((str(entry["loc"][0]) for entry in errors), key=order.index)
    value = given[name]
    if isinstance(value, str) and (name, value) in _REFUSED_VALUES:
        message = f"{name} {shown(value)} is not supported: {_REFUSED_VALUES[name, value]}; choose {expected[name]}."
        return ApiError(400, message, param=name, code="invalid_value")
    if name in _NOT_ECHOED:
        came = f"{len(value):,} characters" if isinstance(value, str) else "another type"
    else:
        came = shown(value)
    return invalid_value(f"{name} must be {expected[name]}, got {came}.", name)
