"""What one prompt asks for: seeds, sampling options, size and form of its files; from options, a record or a line."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from bitvar.cli.sizes import AskedSize, difference, drawn_size
from bitvar.errors import UsageError
from bitvar.pipeline.options import GenerationOptions
from bitvar.pipeline.record import MAX_IMAGES, MAX_PIXELS, ImageRecord, sheet_size

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline

SAMPLING: Final = ("negative_prompt", "guidance_scale", "temperature", "top_k", "top_p")
SEEDS: Final = 2**63
MAX_PROMPT: Final = 20_000


@dataclass(frozen=True)
class Changes:
    """What the command line or a line of a prompts file says; None is not said.

    Attributes:
        prompt: what to draw.
        negative: what to steer away from; empty for nothing.
        seed: of the first image; the next ones count up.
        num_images: Number of images.
        size: the size or ratio asked for.
        exact: whether the result is resized to exactly that.
        grid: whether all images go on one sheet.
        enlarge: how many times as large to write them.
        sampling: guidance_scale, temperature, top_k and top_p, as far as they are said.
    """

    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    num_images: int | None = None
    size: AskedSize | None = None
    exact: bool | None = None
    grid: bool | None = None
    enlarge: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawing:
    """One prompt with all that decides its images and their files.

    Attributes:
        prompt: what to draw.
        seeds: of each image.
        sampling: of `SAMPLING`, those that aren't left to the model.
        size: the size or ratio asked for, not yet looked up.
        asked: the size asked for in pixels, if one was.
        drawn: the size the model draws; None for its usual one.
        exact, grid, enlarge: as in `Changes`.
        line: of the prompts file; 0 for none.
    """

    prompt: str
    seeds: tuple[int, ...]
    sampling: Mapping[str, Any]
    size: AskedSize | None = None
    asked: tuple[int, int] | None = None
    drawn: tuple[int, int] | None = None
    exact: bool = False
    grid: bool = False
    enlarge: int = 1
    line: int = 0

    @property
    def files(self) -> list[tuple[str, int]]:
        """Prompt and seed of each file that it becomes."""
        return [(self.prompt, seed) for seed in (self.seeds[:1] if self.grid else self.seeds)]

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of each file, once the model's size is known."""
        size = self.image_size
        assert size is not None, "settle it first"
        return sheet_size(size, len(self.seeds)) if self.grid else size

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of each image as it is written, once the model's size is known."""
        size = self.asked if self.exact else self.drawn
        return None if size is None else (size[0] * self.enlarge, size[1] * self.enlarge)


def new_drawing(changes: Changes, *, line: int = 0) -> Drawing:
    """A drawing of a prompt.

    Raises:
        UsageError: if there is no prompt, or something given is of no use.
    """
    if changes.prompt is None:
        raise UsageError("There is no prompt.", "nothing says what to draw", 'try: bitvar generate "a red apple"')
    empty = Drawing(changes.prompt, seeds_from(secrets.randbelow(2**32), 1), {}, line=line)
    return changed(empty, changes)


def drawing_of(record: ImageRecord) -> Drawing:
    """The drawing that a record describes."""
    sampling = {name: getattr(record, name) for name in SAMPLING}
    width, height = record.requested_width, record.requested_height
    asked = None if width is None or height is None else (width, height)
    return Drawing(
        prompt=record.prompt,
        seeds=record.all_seeds,
        sampling={name: value for name, value in sampling.items() if value is not None},
        asked=asked,
        drawn=(record.width, record.height),
        exact=record.exact_size,
        grid=record.grid,
        enlarge=record.enlarge,
    )


def changed(drawing: Drawing, changes: Changes) -> Drawing:
    """The drawing with everything that was said applied to it.

    Raises:
        UsageError: if something said is out of bounds or of no use.
    """
    sampling = {**drawing.sampling, **changes.sampling}
    if changes.negative is not None:
        sampling["negative_prompt"] = changes.negative
        if not changes.negative.strip():
            del sampling["negative_prompt"]
    seeds = drawing.seeds
    if changes.seed is not None or changes.num_images is not None:
        seeds = seeds_from(seeds[0] if changes.seed is None else changes.seed, changes.num_images or len(seeds))
    for what, text in (("prompt", changes.prompt), ("negative prompt", changes.negative)):
        _check_text(what, text or "")
    made = replace(
        drawing,
        prompt=drawing.prompt if changes.prompt is None else changes.prompt,
        seeds=seeds,
        sampling=sampling,
        exact=drawing.exact if changes.exact is None else changes.exact,
        grid=drawing.grid if changes.grid is None else changes.grid,
        enlarge=drawing.enlarge if changes.enlarge is None else changes.enlarge,
    )
    if changes.size is not None:
        made = replace(made, size=changes.size, asked=None, drawn=None)
    if made.exact and made.size is None and made.asked is None:
        raise UsageError("--exact-size has no size.", "neither --size nor --aspect was given", "add --size 100x100")
    return made


def seeds_from(first: int, count: int) -> tuple[int, ...]:
    """The first seed and those after it.

    Raises:
        UsageError: for a first one that is no seed.
    """
    if not 0 <= first < SEEDS:
        why = "a seed lies between 0 and 2^63 - 1"
        raise UsageError(f"The seed {first} is out of range.", why, "choose one in that range")
    return tuple((first + i) % SEEDS for i in range(count))


def differences(before: Drawing, after: Drawing) -> list[str]:
    """What was changed, each as `name: old -> new`."""
    size = "x".join(map(str, before.asked or before.drawn or ()))
    pairs = {
        "prompt": (before.prompt, after.prompt),
        "seeds": (before.seeds, after.seeds),
        "exact size": (before.exact, after.exact),
        "sheet": (before.grid, after.grid),
        "enlarge": (before.enlarge, after.enlarge),
        **{name.replace("_", " "): (before.sampling.get(name), after.sampling.get(name)) for name in SAMPLING},
    }
    shown = {name: (_shown(old), _shown(new)) for name, (old, new) in pairs.items()}
    shown["size"] = (size, after.size.text if after.size else size)
    return [f"{name}: {old} -> {new}" for name, (old, new) in shown.items() if old != new]


def settled(drawing: Drawing, pipeline: "InfinityPipeline") -> tuple[Drawing, str | None]:
    """The drawing with its sizes in pixels, checked against the model, and a note if they aren't what was asked for.

    Raises:
        UsageError: for anything this model can't draw.
    """
    asked, note = drawing.asked, None
    if drawing.size is not None:
        asked = drawing.size.pixels(pipeline.sizes[0])
        drawn = drawn_size(pipeline, asked, exact=drawing.exact)
        note = difference(drawing.size, asked, drawn, exact=drawing.exact)
    else:
        drawn = drawing.drawn or pipeline.sizes[0]
    if drawn not in pipeline.sizes:
        known = ", ".join(f"{w}x{h}" for w, h in pipeline.sizes[:8])
        why = f"the settings name a size that this model doesn't draw; it draws {known}"
        raise UsageError(f"Can't draw {drawn[0]}x{drawn[1]}.", why, "choose another with --size")
    made = replace(drawing, asked=asked, drawn=drawn)
    _check(made, pipeline)
    return made, note


def options_of(drawing: Drawing) -> dict[str, Any]:
    """What a pipeline's call takes, besides the prompts and seeds."""
    assert drawing.drawn is not None, "settle it first"
    return {**drawing.sampling, "width": drawing.drawn[0], "height": drawing.drawn[1]}


def _check(drawing: Drawing, pipeline: "InfinityPipeline") -> None:
    """Everything that can be said against a drawing before it is begun."""
    options = GenerationOptions.parse(options_of(drawing), source="the options")
    schedule = pipeline.schedule_for(options.height, options.width)
    params = pipeline.params_for(options)
    params.per_scale(len(schedule))
    if "negative_prompt" in drawing.sampling and not params.guided:
        why = "it is what guidance steers away from, and guidance is off: its scale is 1"
        raise UsageError("The negative prompt would do nothing.", why, "give a guidance scale as well, say 3")
    pipeline.check_prompt(drawing.prompt)
    width, height = drawing.file_size
    if width * height > MAX_PIXELS:
        why = f"a file may have {MAX_PIXELS} pixels"
        raise UsageError(f"Can't write {width}x{height} pixels.", why, "ask for less with --size or --enlarge")
    assert len(drawing.seeds) <= MAX_IMAGES


def _check_text(what: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        why = f"{MAX_PROMPT} are read at most"
        raise UsageError(f"The {what} has {len(text)} characters.", why, f"shorten the {what}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"The {what} is no text.", "it holds bytes that are not UTF-8", "write it in UTF-8")


def _shown(value: Any) -> str:
    """A value for people: seeds and sizes without Python's brackets, text escaped."""
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
