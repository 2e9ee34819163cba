"""Fields of A1111's txt2img, which img2img has too: which mean something here, and what they are called in ours.

A1111 itself ignores fields that it doesn't know, and its clients send many that only a diffusion model has. They are
accepted, and the answer names those that had no effect.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from bitvar.config import Config
from bitvar.sampling.params import MAX_SEED, SamplingParams
from bitvar.serving.http.errors import ApiError, invalid_value, shortened, shown
from bitvar.serving.http.fields import MAX_N, MAX_PROMPT, ImagesRequest, parse_images_request
from bitvar.serving.http.sizes import MAX_SIDE, MULTIPLE

USUAL_SIDE: Final = 512
"""Side in pixels that A1111 fills in where a request gives the other one alone."""

MAX_NAMED: Final = 100
"""Most fields without effect that an answer names."""

_ADAPTER: Final = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")
"""An adapter within a prompt, as A1111 writes it: <lora:NAME>, or <lora:NAME:WEIGHT>."""

_CHECKPOINT: Final = "sd_model_checkpoint"


class TextToImageRequest(Config):
    """The fields of txt2img that have an effect here.

    Attributes:
        prompt: Text to draw, in which <lora:NAME:WEIGHT> chooses an adapter.
        negative_prompt: Text that guidance steers away from.
        seed: Seed of the first image, counting up; -1 draws a random one.
        width, height: Size of the file, rounded down to multiples of 16.
        batch_size, n_iter: Their product is the number of images.
        cfg_scale: Strength of guidance.
        override_settings: Settings for this request; the checkpoint is the only one.
        send_images: Whether the answer has the images.
    """

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] = ""
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED)] = -1
    width: Annotated[int, Field(ge=MULTIPLE, le=MAX_SIDE)] | None = None
    height: Annotated[int, Field(ge=MULTIPLE, le=MAX_SIDE)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=MAX_N)] = 1
    n_iter: Annotated[int, Field(ge=1, le=MAX_N)] = 1
    cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)
    send_images: bool = True


_SIDE: Final = f"a whole number of pixels from {MULTIPLE} to {MAX_SIDE}"
_COUNT: Final = f"a whole number from 1 to {MAX_N}"
_EXPECTED: Final[Mapping[str, str]] = {
    "prompt": f"text of at most {MAX_PROMPT:,} characters",
    "negative_prompt": f"text of at most {MAX_PROMPT:,} characters",
    "seed": "a whole number up to 2^63 - 1, or -1 for a random one",
    "width": _SIDE,
    "height": _SIDE,
    "batch_size": _COUNT,
    "n_iter": _COUNT,
    "cfg_scale": "a number from 0 to 100",
    "override_settings": "an object",
    "send_images": "true or false",
}
"""What each field takes, as the end of a sentence."""


@dataclass(frozen=True)
class Translated:
    """A request in A1111's form, and the same in ours.

    Attributes:
        given: The request as it came.
        request: The same request to plan.
        ignored: Names of the fields without effect.
        warnings: Sentences for the user.
    """

    given: TextToImageRequest
    request: ImagesRequest
    ignored: tuple[str, ...]
    warnings: tuple[str, ...]


def translate(
    values: Mapping[str, Any],
    defaults: SamplingParams,
    *,
    prompt: str | None = None,
    known: Collection[str] = (),
) -> Translated:
    """Check the fields of txt2img, and write them as a request of ours.

    Args:
        values: Values by field, as JSON has them.
        defaults: Settings of the model's sampler.
        prompt: What a missing prompt stands for, which may be blank; None refuses it.
        known: Further fields with an effect, which are read elsewhere.

    Raises:
        ApiError: A value is wrong, or there is no prompt.
    """
    given = _parse(values)
    n = given.batch_size * given.n_iter
    if n > MAX_N:
        message = f"batch_size times n_iter is the number of images, and at most {MAX_N}; {n} were asked for."
        raise invalid_value(message, "batch_size")
    warnings: list[str] = []
    width, height = _sides(given, warnings)
    text, adapters = without_adapters(given.prompt)
    request: dict[str, Any] = {
        "prompt": text,
        "negative_prompt": _negative(given, defaults, warnings),
        "model": given.override_settings.get(_CHECKPOINT),
        "n": n,
        "seed": None if given.seed == -1 else given.seed,
        "width": width,
        "height": height,
        "guidance_scale": given.cfg_scale,
        "lora": adapters or None,
        "output_format": "png",
    }
    ignored = _ignored({name: value for name, value in values.items() if name not in known}, given)
    return Translated(given, parse_images_request(request, prompt=prompt), ignored, tuple(warnings))


def _parse(values: Mapping[str, Any]) -> TextToImageRequest:
    known = {
        name: value
        for name, value in values.items()
        if name in TextToImageRequest.model_fields and value is not None  # null leaves the default
    }
    try:
        return TextToImageRequest.model_validate(known)
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"][0])
    came = shown(known[name])
    if name in ("prompt", "negative_prompt"):  # their text belongs in no message
        came = f"{len(known[name]):,} characters" if isinstance(known[name], str) else "another type"
    raise invalid_value(f"{name} must be {_EXPECTED[name]}, got {came}.", name)


def _sides(given: TextToImageRequest, warnings: list[str]) -> tuple[int | None, int | None]:
    """The size to ask for; None for both leaves it to the model."""
    if given.width is None and given.height is None:
        return None, None
    asked = given.width or USUAL_SIDE, given.height or USUAL_SIDE
    width, height = (side // MULTIPLE * MULTIPLE for side in asked)
    if (width, height) != asked:
        warnings.append(f"Sides are multiples of {MULTIPLE} here: {asked[0]}x{asked[1]} became {width}x{height}.")
    return width, height


def without_adapters(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """The prompt without its adapters, and those.

    Raises:
        ApiError: The weight of an adapter is no number.
    """
    adapters = []
    for name, weight in _ADAPTER.findall(prompt):
        try:
            adapters.append({"name": name.strip(), "scale": float(weight or 1)})
        except ValueError:
            message = f"An adapter is <lora:NAME:WEIGHT>, with a number as its weight, got {shown(weight)}."
            raise invalid_value(message, "prompt") from None
    return (_ADAPTER.sub("", prompt).strip() if adapters else prompt), adapters


def _negative(given: TextToImageRequest, defaults: SamplingParams, warnings: list[str]) -> str | None:
    """The negative prompt. A1111's clients send one always, and without guidance it has no effect there either."""
    if not given.negative_prompt.strip():
        return None
    if SamplingParams(guidance_scale=given.cfg_scale).over(defaults).guided:
        return given.negative_prompt
    warnings.append("negative_prompt has no effect without guidance: send a cfg_scale other than 1, such as 3.")
    return None


def _ignored(values: Mapping[str, Any], given: TextToImageRequest) -> tuple[str, ...]:
    """Names of the fields without effect that have a value at all."""
    names = [name for name, value in values.items() if value and name not in TextToImageRequest.model_fields]
    settings = [f"override_settings.{name}" for name in given.override_settings if name != _CHECKPOINT]
    return tuple(named((*names, *settings)))


def named(names: Iterable[str]) -> list[str]:
    """Names as an answer lists them: not too many, and none too long."""
    return [shortened(name) for name in islice(names, MAX_NAMED)]


def checkpoint_of(values: Mapping[str, Any]) -> str | None:
    """The checkpoint that new options ask for; None if they leave it as it is.

    Raises:
        ApiError: It is no text.
    """
    name = values.get(_CHECKPOINT)
    if name is not None and not isinstance(name, str):
        raise ApiError(400, f"{_CHECKPOINT} must be text, got {shown(name)}.", param=_CHECKPOINT, code="invalid_value")
    return name
