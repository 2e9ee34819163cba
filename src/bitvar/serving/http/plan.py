"""Planning: a checked request and the model's card become a job, and what its answer repeats.

Every rule that needs the model is here. What is planned is complete: run twice, a job gives the same images.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.sampling.params import SamplingParams
from bitvar.serving.engine.job import AdapterChoice, ImageFormat, Job, OutputSettings, PreviewSettings
from bitvar.serving.engine.model_card import ModelCard, NativeSize
from bitvar.serving.http.edit_input import EditInput
from bitvar.serving.http.errors import from_usage, invalid_value, shown
from bitvar.serving.http.fields import ImagesRequest, LoraChoice
from bitvar.serving.http.sizes import ChosenSize, Quality, choose_size, parse_size, quality_of, size_near

ResponseFormat: TypeAlias = Literal["b64_json", "url"]

USUAL_PREVIEWS = 3
"""Most previews that OpenAI's API knows: as many may be asked for whatever the number of scales."""

MUCH_CROPPED = 0.02
"""Share of an image's area that is worth a warning when it is cropped away."""

_QUALITIES: dict[str | None, Quality] = {
    "low": "low", "medium": "medium", "high": "high", "standard": "medium", "hd": "high"
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A job, and what its answer says besides the images.

    Attributes:
        job: Job for the engine, with its seeds.
        stream: Whether the answer is a stream of events.
        response_format: Whether items carry images or URLs.
        model: Name of the model that answers.
        size: Size of the files, such as "1024x1024".
        quality: Budget of the native size: low, medium or high.
        background: What was done: transparent or opaque.
        output_format: Format of the files.
        native_size: Size that the model draws.
        moderation: How strictly the safety check judges: auto or low.
        safety_identifier: Id of the person that the request is made for.
        warnings: Sentences for the user.
        kind: What is done; the events of a stream are named after it.
    """

    job: Job
    stream: bool
    response_format: ResponseFormat
    model: str
    size: str
    quality: Quality
    background: Literal["transparent", "opaque"]
    output_format: ImageFormat
    native_size: NativeSize
    moderation: Literal["low", "auto"] = "auto"
    safety_identifier: str | None = None
    warnings: tuple[str, ...] = ()
    kind: Literal["generation", "edit"] = "generation"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image."""
        return tuple(self.job.request.seeds())


def plan_images(
    request: ImagesRequest,
    card: ModelCard,
    *,
    job_id: str,
    answered_name: str,
    source: EditInput | None = None,
) -> Plan:
    """Plan the images of a request.

    Args:
        request: Fields of the request.
        card: The model.
        job_id: Id of the new job.
        answered_name: Name of the model that answers.
        source: Image that they are made from; None for new ones.

    Raises:
        ApiError: A value doesn't suit the model, or values don't go together.
    """
    chosen = _size(request, card, source)
    is_exact = source is not None and source.spec.exact
    keeps_alpha = card.alpha or (is_exact and source is not None and source.has_alpha)
    output_format = request.output_format or "png"
    background = _background(request, card, output_format, keeps_alpha=keeps_alpha)
    generation = _generation(request, card, chosen.native)
    edit, asked = None if source is None else source.spec, (request.background or "auto") if keeps_alpha else "auto"
    job = Job(
        id=job_id,
        request=generation.model_copy(update={"background": asked, "edit": edit}),
        output=OutputSettings(
            format=output_format,
            quality=_compression(request, output_format),
            size=(chosen.width, chosen.height) if chosen.resized and not is_exact else None,
        ),
        previews=_previews(request, chosen.native),
        adapters=_adapters(request, card),
        source_pixels=0 if source is None else source.worked_pixels,
    )
    return Plan(
        job=job,
        stream=bool(request.stream),
        response_format=_response_format(request),
        model=answered_name,
        size=chosen.text,
        quality=quality_of(chosen.native),
        background=background,
        output_format=output_format,
        native_size=chosen.native,
        moderation=request.moderation or "auto",
        safety_identifier=request.safety_identifier or request.user,
        warnings=(*_warnings(request, chosen, source), *(() if source is None else source.warnings)),
        kind="generation" if source is None else "edit",
    )


def _size(request: ImagesRequest, card: ModelCard, source: EditInput | None) -> ChosenSize:
    asked = None if request.size is None else parse_size(request.size)
    param = "size"
    if request.width is not None or request.height is not None:
        param = "width" if request.width is not None else "height"
        if request.width is None or request.height is None:
            raise invalid_value("width and height belong together: send both, or neither.", param)
        if asked is not None:
            raise invalid_value("The size is given twice: send size, or width and height.", param)
        asked = (request.width, request.height)
    quality = _QUALITIES.get(request.quality)
    if source is not None and (asked is None or source.spec.exact):
        if asked not in (None, source.size):
            width, height = source.size
            message = f"exact keeps the size of the image, {width}x{height}: leave size out, or leave exact out."
            raise invalid_value(message, param)
        return size_near(source.size, card, quality=quality, exact=source.spec.exact)
    exact = bool(request.exact_native)
    return choose_size(asked, card, quality=quality, exact_native=exact, param=param)


def _generation(request: ImagesRequest, card: ModelCard, native: NativeSize) -> GenerationRequest:
    """The settings of the images, with a seed for each."""
    n = request.n or 1
    if isinstance(request.seed, tuple) and len(request.seed) != n:
        message = f"seed lists {len(request.seed)}, and n asks for {n}; send {n}, or one number to count up from."
        raise invalid_value(message, "seed")
    params = _sampling(request, native)
    negative = request.negative_prompt if (request.negative_prompt or "").strip() else None
    if negative is not None and not params.over(card.defaults).guided:
        message = (
            "negative_prompt would do nothing: guidance steers away from it, but guidance is off "
            "(its scale is 1). Send a guidance_scale as well, such as 3."
        )
        raise invalid_value(message, "negative_prompt")
    values: dict[str, Any] = {
        "prompts": (request.prompt,),
        "params": params,
        "width": native.width,
        "height": native.height,
        "negative_prompt": negative,
        "num_images_per_prompt": n,
        "seed": request.seed,
    }
    try:
        planned = GenerationRequest.parse(values, source="the request")
        return planned.model_copy(update={"seed": tuple(planned.seeds())})
    except UsageError as error:
        raise from_usage(error, param=None) from None


def _sampling(request: ImagesRequest, native: NativeSize) -> SamplingParams:
    guidance, param = request.guidance_scale, "guidance_scale"
    if request.guidance_schedule is not None:
        if guidance is not None:
            message = "Guidance is given twice: send guidance_scale or guidance_schedule."
            raise invalid_value(message, "guidance_schedule")
        guidance, param = request.guidance_schedule, "guidance_schedule"
    _check_scales(guidance, param, native)
    _check_scales(request.temperature, "temperature", native)
    return SamplingParams(
        guidance_scale=guidance, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p
    )


def _check_scales(value: float | tuple[float, ...] | None, param: str, native: NativeSize) -> None:
    num_scales = len(native.grids)
    if isinstance(value, tuple) and len(value) != num_scales:
        message = (
            f"{param} lists {len(value)} values, and the model draws {native.width}x{native.height} in "
            f"{num_scales} scales; send {num_scales} values, or one number."
        )
        raise invalid_value(message, param)


def _background(
    request: ImagesRequest, card: ModelCard, output_format: ImageFormat, *, keeps_alpha: bool
) -> Literal["transparent", "opaque"]:
    """What is done about the background: an image that may have any is transparent if model and format can be."""
    if request.background != "transparent":
        is_transparent = keeps_alpha and output_format != "jpeg" and request.background != "opaque"
        return "transparent" if is_transparent else "opaque"
    if not card.alpha:
        raise invalid_value("This model draws no transparent images; send background opaque or auto.", "background")
    if output_format == "jpeg":
        message = "JPEG files can't be transparent; send output_format png or webp."
        raise invalid_value(message, "background")
    return "transparent"


def _compression(request: ImagesRequest, output_format: ImageFormat) -> int:
    quality = 100 if request.output_compression is None else request.output_compression
    if output_format == "png" and quality != 100:
        message = "PNG files are lossless: leave output_compression out, or send output_format webp or jpeg with it."
        raise invalid_value(message, "output_compression")
    return quality


def _previews(request: ImagesRequest, native: NativeSize) -> PreviewSettings:
    count = request.partial_images
    if request.stream:
        if (request.n or 1) > 1:
            message = "A stream carries one image, since its events don't say which image they show; send n 1."
            raise invalid_value(message, "n")
    elif count is not None:
        raise invalid_value(
            "partial_images needs stream: true; without a stream there are no previews.", "partial_images"
        )
    limit = max(USUAL_PREVIEWS, len(native.grids) - 1)
    if count is not None and count > limit:
        message = (
            f"partial_images must be at most {limit} here: the model draws {native.width}x{native.height} in "
            f"{len(native.grids)} scales."
        )
        raise invalid_value(message, "partial_images")
    return PreviewSettings(count=count or 0, size=request.preview_size)


def _adapters(request: ImagesRequest, card: ModelCard) -> tuple[AdapterChoice, ...]:
    given = (request.lora,) if isinstance(request.lora, LoraChoice) else request.lora or ()
    names = [choice.name for choice in given]
    for name in names:
        if name not in card.adapters:
            known = ", ".join(card.adapters[:20]) or "none"
            raise invalid_value(f"There is no adapter {shown(name)} here; known: {known}.", "lora")
        if names.count(name) > 1:
            raise invalid_value(f"The adapter {shown(name)} is given twice.", "lora")
    return tuple(AdapterChoice(name=one.name, scale=1.0 if one.scale is None else one.scale) for one in given)


def _response_format(request: ImagesRequest) -> ResponseFormat:
    if request.stream and request.response_format == "url":
        raise invalid_value("A stream carries images themselves; send response_format b64_json.", "response_format")
    return request.response_format or "b64_json"


def _warnings(request: ImagesRequest, chosen: ChosenSize, source: EditInput | None) -> list[str]:
    """What a client asked for that has no effect, or a surprising one."""
    warnings = []
    if request.style is not None:
        warnings.append("style has no effect on this model.")
    asked, done = _QUALITIES.get(request.quality), quality_of(chosen.native)
    if asked is not None and asked != done:
        native = f"{chosen.native.width}x{chosen.native.height}"
        warnings.append(f"quality {request.quality} has no effect here: the model draws at {native}, which is {done}.")
    if source is not None and (source.spec.fit == "cover" or (source.spec.fit is None and source.spec.mask is None)):
        shown = ChosenSize(chosen.native, *source.size)
        if shown.cropped > MUCH_CROPPED:
            what = "stays as it is" if source.spec.exact else "is cropped away; fit pad shows the model all of it"
            warnings.append(
                f"The model draws another ratio than the image's: {100 * shown.cropped:.0f} % of it {what}."
            )
    if chosen.cropped > MUCH_CROPPED and not (source is not None and source.spec.exact):
        share = f"{100 * chosen.cropped:.0f} %"
        warnings.append(f"The model has no size of the ratio {chosen.text}; {share} of the image is cropped away.")
    if request.preview_size is not None and not request.partial_images:
        warnings.append("preview_size has no effect without partial_images.")
    return warnings
