"""The work that one prompt asks for: seeds, sampling parameters, size and form of its files.

A job comes from options, from a line of a prompts file, or from the record inside an image.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, get_args

from bitvar.cli.sizes import describe_difference, size_to_generate
from bitvar.config import unknown
from bitvar.editing.spec import EditSpec, MixedPrompt, MixedSeed
from bitvar.errors import UsageError
from bitvar.pipeline.record import MAX_IMAGES, MAX_PIXELS, ImageRecord, sheet_size
from bitvar.pipeline.request import Background, GenerationRequest
from bitvar.pipeline.sizes import RequestedSize
from bitvar.sampling.quality import PRESETS, QualityOptions

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline

SAMPLING: Final = ("negative_prompt", "guidance_scale", "temperature", "top_k", "top_p")
NUM_SEEDS: Final = 2**63
MAX_PROMPT: Final = 20_000
NO_QUALITY: Final = QualityOptions()
"""Options that turn off those of a record or of the command line."""


@dataclass(frozen=True)
class JobSettings:
    """Settings given on the command line or in a line of a prompts file; None for those left out.

    Attributes:
        prompt: Text to draw.
        negative: Text to steer away from; empty for nothing.
        seed: Seed of the first image; the next ones count up.
        num_images: Number of images.
        size: Requested size or aspect ratio.
        exact_size: Whether to resize the result to exactly that size.
        grid: Whether to put all images on one sheet.
        enlarge: Factor by which to enlarge the images.
        background: Background to show the images on, as in `GenerationRequest`.
        quality: Options of quality, `NO_QUALITY` to turn them off.
        sampling: The given ones of guidance_scale, temperature, top_k and top_p.
        mix: Further prompts; None for those of the job.
        mixed_seed: Second seed; None for the job's.
    """

    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    num_images: int | None = None
    size: RequestedSize | None = None
    exact_size: bool | None = None
    grid: bool | None = None
    enlarge: int | None = None
    background: Background | None = None
    quality: QualityOptions | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    mix: tuple[MixedPrompt, ...] | None = None
    mixed_seed: MixedSeed | None = None


@dataclass(frozen=True)
class PromptJob:
    """One prompt with every setting that decides its images and their files.

    Attributes:
        prompt: Text to draw.
        seeds: Seed of each image.
        sampling: Values of `SAMPLING` that aren't left to the model.
        size: Requested size or aspect ratio, before it is resolved.
        requested: Requested size in pixels; None if none was requested.
        generated: Size that the model generates; None for its default size.
        exact_size, grid, enlarge, background: As in `JobSettings`.
        edit: Edit that makes the images from another one; None for new images.
        mix: Further prompts.
        mixed_seed: Second seed.
        quality: Options of quality; None for none.
        seed_is_open: Whether nobody chose the first seed, so that it was drawn.
        line: Line number in the prompts file; 0 without one.
        file, id: Name of the file and id of the line, in the folder of a run; None if the line has none.
        original_prompt, rewritten_by: Prompt before it was rewritten, and the model that did it; None for neither.
    """

    prompt: str
    seeds: tuple[int, ...]
    sampling: Mapping[str, Any]
    size: RequestedSize | None = None
    requested: tuple[int, int] | None = None
    generated: tuple[int, int] | None = None
    exact_size: bool = False
    grid: bool = False
    enlarge: int = 1
    background: Background = "auto"
    edit: EditSpec | None = None
    mix: tuple[MixedPrompt, ...] = ()
    mixed_seed: MixedSeed | None = None
    quality: QualityOptions | None = None
    seed_is_open: bool = False
    line: int = 0
    file: str | None = None
    id: str | int | None = None
    original_prompt: str | None = None
    rewritten_by: str | None = None

    @property
    def files(self) -> list[tuple[str, int]]:
        """Prompt, as the user gave it, and seed of each file that the job writes."""
        return [(self.given_prompt, seed) for seed in (self.seeds[:1] if self.grid else self.seeds)]

    @property
    def given_prompt(self) -> str:
        """Prompt as the user gave it."""
        return self.prompt if self.original_prompt is None else self.original_prompt

    @property
    def recorded(self) -> dict[str, Any]:
        """What the image's record says of the job, and the pipeline doesn't know."""
        width, height = self.requested or (None, None)
        sizes = {"requested_width": width, "requested_height": height, "exact_size": self.exact_size}
        rewriting = {"original_prompt": self.original_prompt, "rewritten_by": self.rewritten_by}
        return {**sizes, "enlarge": self.enlarge, **rewriting}

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of each file, once the job is resolved."""
        size = self.requested if self.exact_size else self.generated
        assert size is not None, "resolve the job first"
        enlarged = (size[0] * self.enlarge, size[1] * self.enlarge)
        return sheet_size(enlarged, len(self.seeds)) if self.grid else enlarged


def read_background(text: str) -> Background:
    """Read the value of `--background`.

    Raises:
        UsageError: The text names no background.
    """
    known: tuple[Background, ...] = get_args(Background)
    for name in known:
        if text == name:
            return name
    raise UsageError(unknown(f"background {text!r}", text, known))


def read_quality(text: str) -> QualityOptions:
    """Read the value of `--quality`.

    Raises:
        UsageError: The text names no preset.
    """
    if text == "none":
        return NO_QUALITY
    if text not in PRESETS:
        raise UsageError(unknown(f"quality {text!r}", text, [*PRESETS, "none"]))
    return PRESETS[text]


def new_job(
    settings: JobSettings, *, line: int = 0, file: str | None = None, line_id: str | int | None = None
) -> PromptJob:
    """Make a job from settings alone.

    Args:
        settings: Settings of the command line or of a line in a prompts file.
        line, file, line_id: As `PromptJob` has them.

    Raises:
        UsageError: There is no prompt, or a setting is out of bounds.
    """
    if settings.prompt is None:
        raise UsageError("There is no prompt.", fix='try: bitvar generate "a red apple"')
    empty = PromptJob(
        settings.prompt,
        seeds_from(secrets.randbelow(2**32), 1),
        {},
        seed_is_open=settings.seed is None,
        line=line,
        file=file,
        id=line_id,
    )
    return with_settings(empty, settings)


def job_from_record(record: ImageRecord) -> PromptJob:
    """The job that makes a recorded image again."""
    sampling = {name: getattr(record, name) for name in SAMPLING}
    width, height = record.requested_width, record.requested_height
    return PromptJob(
        prompt=record.prompt,
        seeds=record.all_seeds,
        sampling={name: value for name, value in sampling.items() if value is not None},
        requested=None if width is None or height is None else (width, height),
        generated=(record.width, record.height),
        exact_size=record.exact_size,
        grid=record.grid,
        enlarge=record.enlarge,
        background=record.background,
        mix=record.mix,
        mixed_seed=record.mixed_seed,
        quality=record.quality,
        original_prompt=record.original_prompt,
        rewritten_by=record.rewritten_by,
    )


def with_settings(job: PromptJob, settings: JobSettings) -> PromptJob:
    """A copy of a job with the given settings applied.

    Raises:
        UsageError: A setting is out of bounds, or has no effect.
    """
    sampling = {**_without(job.sampling, settings.quality), **settings.sampling}
    if settings.negative is not None:
        sampling["negative_prompt"] = settings.negative
        if not settings.negative.strip():
            del sampling["negative_prompt"]
    seeds = job.seeds
    if settings.seed is not None or settings.num_images is not None:
        first = seeds[0] if settings.seed is None else settings.seed
        seeds = seeds_from(first, settings.num_images or len(seeds))
    for what, text in (("prompt", settings.prompt), ("negative prompt", settings.negative)):
        _check_text(what, text or "")
    changed = replace(
        job,
        prompt=job.prompt if settings.prompt is None else settings.prompt,
        seeds=seeds,
        sampling=sampling,
        exact_size=job.exact_size if settings.exact_size is None else settings.exact_size,
        grid=job.grid if settings.grid is None else settings.grid,
        enlarge=job.enlarge if settings.enlarge is None else settings.enlarge,
        background=settings.background or job.background,
        mix=job.mix if settings.mix is None else settings.mix,
        mixed_seed=settings.mixed_seed or job.mixed_seed,
        quality=job.quality if settings.quality is None else _unless_none(settings.quality),
    )
    if changed.grid and changed.background == "transparent":
        why = "a sheet is drawn on white"
        raise UsageError("A sheet can't be transparent.", why, "leave out --grid, or choose another --background")
    if settings.prompt is not None and settings.prompt != job.prompt:
        changed = replace(changed, original_prompt=None, rewritten_by=None)
    if settings.size is not None:
        changed = replace(changed, size=settings.size, requested=None, generated=None)
    if changed.exact_size and changed.size is None and changed.requested is None:
        raise UsageError("--exact-size needs a size.", "neither --size nor --aspect was given", "add --size 100x100")
    return changed


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """A first seed and the ones after it.

    Raises:
        UsageError: The first seed is out of range.
    """
    if not 0 <= first < NUM_SEEDS:
        why = "seeds run from 0 to 2^63 - 1"
        raise UsageError(f"The seed {first} is out of range.", why, "choose a seed in that range")
    return tuple((first + i) % NUM_SEEDS for i in range(count))


def differences(before: PromptJob, after: PromptJob) -> list[str]:
    """List the settings that differ, each as `name: old -> new`."""
    size = "x".join(map(str, before.requested or before.generated or ()))
    pairs = {
        "prompt": (before.prompt, after.prompt),
        "seeds": (before.seeds, after.seeds),
        "exact size": (before.exact_size, after.exact_size),
        "sheet": (before.grid, after.grid),
        "enlarge": (before.enlarge, after.enlarge),
        "background": (before.background, after.background),
        "further prompts": (_prompts_of(before), _prompts_of(after)),
        "second seed": (before.mixed_seed and before.mixed_seed.seed, after.mixed_seed and after.mixed_seed.seed),
        "quality": (quality_name(before.quality), quality_name(after.quality)),
        **{name.replace("_", " "): (before.sampling.get(name), after.sampling.get(name)) for name in SAMPLING},
    }
    texts = {name: (_format_value(old), _format_value(new)) for name, (old, new) in pairs.items()}
    texts["size"] = (size, after.size.text if after.size else size)
    return [f"{name}: {old} -> {new}" for name, (old, new) in texts.items() if old != new]


def resolve_job(job: PromptJob, pipeline: "InfinityPipeline") -> tuple[PromptJob, str | None]:
    """Look up the job's sizes in pixels, and check the whole job against the model.

    Returns:
        The job, and a note if the model generates another size than was requested.

    Raises:
        UsageError: The model can't do what the job asks.
    """
    requested, note, default_size = job.requested, None, pipeline.sizes[0]
    if job.size is not None:
        requested = job.size.in_pixels(default_size)
        generated = size_to_generate(pipeline, requested, exact=job.exact_size)
        if not job.size.is_matched_by(generated, default_size):
            note = describe_difference(job.size, requested, generated, exact=job.exact_size)
    else:
        generated = job.generated or default_size
    if generated not in pipeline.sizes:
        known = ", ".join(f"{w}x{h}" for w, h in pipeline.sizes[:8])
        why = f"the settings name a size that this model doesn't generate; it generates {known}"
        raise UsageError(f"Can't draw {generated[0]}x{generated[1]}.", why, "choose another with --size")
    resolved = replace(job, requested=requested, generated=generated)
    _check(resolved, pipeline)
    return resolved, note


def options_of(job: PromptJob) -> dict[str, Any]:
    """The options of a pipeline's call, besides prompts and seeds."""
    assert job.generated is not None, "resolve the job first"
    background = {} if job.background == "auto" else {"background": job.background}
    steering = {"edit": job.edit, "mix": job.mix, "mixed_seed": job.mixed_seed, "quality": job.quality}
    given = {name: value for name, value in steering.items() if value}
    return {**job.sampling, **background, **given, "width": job.generated[0], "height": job.generated[1]}


def _check(job: PromptJob, pipeline: "InfinityPipeline") -> None:
    """Refuse before any work whatever the pipeline would refuse."""
    request = GenerationRequest.from_options(job.prompt, options_of(job), source="the options")
    schedule = pipeline.schedule_for(request.height, request.width)
    params = pipeline.params_for(request.sampling(len(schedule)))
    params.scales(len(schedule))
    if "negative_prompt" in job.sampling and not params.guided:
        why = "guidance steers away from it, and guidance is off: its scale is 1"
        raise UsageError("The negative prompt would do nothing.", why, "give a guidance scale as well, say 3")
    if job.edit is None or job.prompt.strip():
        pipeline.check_prompt(job.prompt)
    pipeline.check_background(job.background)
    width, height = job.file_size
    if width * height > MAX_PIXELS:
        why = f"a file may have {MAX_PIXELS} pixels"
        raise UsageError(f"Can't write {width}x{height} pixels.", why, "ask for less with --size or --enlarge")
    assert len(job.seeds) <= MAX_IMAGES


def _prompts_of(job: PromptJob) -> tuple[str, ...] | None:
    return tuple(mixed.prompt for mixed in job.mix) or None


def _without(sampling: Mapping[str, Any], quality: QualityOptions | None) -> dict[str, Any]:
    """Leave out what new options of quality set themselves: a record has a value for every setting."""
    return {name: value for name, value in sampling.items() if quality is None or getattr(quality, name, None) is None}


def _unless_none(quality: QualityOptions) -> QualityOptions | None:
    return None if quality == NO_QUALITY else quality


def quality_name(quality: QualityOptions | None) -> str | None:
    """Name options of quality: by their preset, else as JSON."""
    if quality is None:
        return None
    names = [name for name, preset in PRESETS.items() if preset == quality]
    return names[0] if names else quality.model_dump_json(exclude_none=True)


def _check_text(what: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        why = f"at most {MAX_PROMPT} are read"
        raise UsageError(f"The {what} has {len(text)} characters.", why, f"shorten the {what}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"The {what} is not text.", "it holds bytes that are not UTF-8", "write it in UTF-8")


def _format_value(value: Any) -> str:
    """A value for people: text quoted and escaped, seeds and lists without brackets."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, tuple):
        return ", ".join(map(_format_value, value))
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
