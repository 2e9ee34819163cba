"""`bitvar edit PROMPT --image FILE`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.threads import settle

if TYPE_CHECKING:
    from PIL import Image

    from bitvar.cli.prompt_job import PromptJob
    from bitvar.editing.masks import Convention
    from bitvar.editing.spec import EditSpec
    from bitvar.pipeline import InfinityPipeline
    from bitvar.pipeline.file_names import Target
    from bitvar.pipeline.record import ImageRecord

_KEEP_LAYOUT: Final = 0.5
_TAKE_OUT: Final = 0.25


def edit(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the result shows. Default: the prompt in the image's settings, or no text."),
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Image to edit, of any size. Required.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of the same size that says where it may change.")] = None,
    mask_is: Annotated[
        str,
        typer.Option(
            metavar="auto|alpha|white",
            help="What marks the part that may change: transparency, white, or the first of these that the mask has.",
            show_default=True,
        ),
    ] = "auto",
    box: Annotated[
        str | None, typer.Option(metavar="LEFT,TOP,WIDTH,HEIGHT", help="Box in pixels that may change, as a mask.")
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Swap what may change and what stays.")] = False,
    extend: Annotated[
        str | None,
        typer.Option(metavar="LEFT,TOP,RIGHT,BOTTOM", help="Pixels to add at each side, which the model fills."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take out what the mask or box selects; it needs no prompt.")
    ] = False,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="details|layout",
            help="Draw a variation: with the same layout and other details, or the same colours and another layout.",
        ),
    ] = None,
    upscale: Annotated[
        bool, typer.Option("--upscale", help="Keep the image and draw finer scales; needs a larger --size.")
    ] = False,
    strength: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the scales to draw anew, from 0 to 1. Default: the method's."),
    ] = None,
    keep_scales: Annotated[
        int | None, typer.Option(min=0, max=64, help="Number of coarse scales to keep, in place of --strength.")
    ] = None,
    source_prompt: Annotated[
        str | None,
        typer.Option(help="What the image shows now. Default: the prompt in its settings, where the method needs it."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="redraw|localized|inversion|bit-test|difference|tilt",
            help="How the image changes. Default: redraw; without mask and strength, localized if its prompt is known.",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="preserve|text", help="Keep more of the image, or follow the prompt closer.")
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help="Keep the image's size, and its pixels outside what may change. Default: no, but yes with --extend.",
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="cover|pad",
            help="Crop an image of another ratio around the middle, or pad it. Default: cover, but pad with --extend.",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="File, folder, pattern or -, as for generate.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", min=1, max=64, help="Number of images.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the first image. Default: random.")] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT to draw at. Default: the model's size nearest to the image's.")
    ] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance scale: one value, or one per scale.")] = None,
    temperature: Annotated[str | None, typer.Option(help="Temperature: one value, or one per scale.")] = None,
    negative: Annotated[str | None, typer.Option(help="Text to steer away from; needs guidance.")] = None,
    model: Annotated[str | None, typer.Option(help="Name, folder or hub id. Default: icons.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's hub id.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="Adapter, as PATH_OR_ID or PATH_OR_ID:WEIGHT.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16. Default: auto.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", show_default=True)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Change an image: redraw it or a part of it, or change what two prompts disagree on."""
    with exit_codes():
        started = time.perf_counter()
        from bitvar.cli import generate as drawing
        from bitvar.cli.image_output import Timings, check_sizes, destinations, report
        from bitvar.cli.memory_options import MemoryOptions
        from bitvar.cli.pipeline_options import load_adapters, load_pipeline
        from bitvar.cli.prompt_job import resolve_job
        from bitvar.errors import UsageError
        from bitvar.pipeline.image_files import format_of

        if image is None:
            raise UsageError("There is no image to edit.", fix='name it: bitvar edit "a green cactus" --image a.png')
        known = _settings_of(image)
        asked = {
            "method": method, "strength": strength, "keep_scales": keep_scales, "upscale": upscale or None,
            "source_prompt": source_prompt, "preset": preset, "exact": exact, "fit": fit,
        }  # fmt: skip
        values: dict[str, Any] = {} if extend is None else {"exact": True, "fit": "pad"}
        values |= {name: value for name, value in asked.items() if value is not None}
        values |= _sugar(values, remove=remove, vary=vary, masked=mask is not None or box is not None)
        pixels, marked = _images(image, mask, mask_is, box, extend, invert=invert)
        text = _prompt(prompt, known, without=remove)
        spec = _spec(pixels if extend is not None else image, marked, values, text, known)
        sampling = {
            "guidance_scale": drawing.read_numbers("guidance", guidance),
            "temperature": drawing.read_numbers("temperature", temperature),
        }
        job = _job(spec, text, size, seed, num_images, negative, sampling)
        targets = destinations(output, [job], many=False)
        refuse_to_replace(targets, [path for path in (image, mask) if path is not None])
        if spec.exact and any(format_of(path) == "JPEG" for path in _paths(targets)):
            say("JPEG changes every pixel a little and has no transparency; PNG keeps them.", err=True)
        saving = MemoryOptions.read(None, sequential_guidance=False, tile=False)
        pipeline = load_pipeline(model, revision, None, dtype, device, None, saving, record=None, path=None)
        load_adapters(pipeline, lora or [], None)
        settle(pipeline)
        loaded = time.perf_counter()
        job = _at_the_images_size(job, pipeline, pixels)
        job, note = resolve_job(job, pipeline)
        if note is not None:
            say(note, err=True)
        if spec.exact:
            job = replace(job, requested=pixels.size, exact_size=True)
        check_sizes([job], targets)
        drawing.note_unknown([job], pipeline, model, None)
        provenance = drawing.provenance_of(model, None)
        files = drawing.draw(pipeline, [job], targets, None, provenance=provenance, hooks={})
        timings = Timings(load=loaded - started, draw=time.perf_counter() - loaded)
        report(files, pipeline.model_name, timings, as_json=as_json)


def refuse_to_replace(targets: "list[list[Target]] | None", inputs: list[Path]) -> None:
    """Refuse to replace what is read for an edit.

    Raises:
        UsageError: A target is one of the inputs.
    """
    from bitvar.errors import UsageError

    for path in _paths(targets):
        for given in inputs:
            if path.exists() and given.exists() and path.samefile(given):
                why = "it is read for this edit, and its pixels would be lost"
                raise UsageError(f"{path} would be replaced.", why, "name another file with -o")


def _paths(targets: "list[list[Target]] | None") -> list[Path]:
    return [target.path for job in targets or [] for target in job]


def _settings_of(path: Path) -> "ImageRecord | None":
    """Read the settings inside an image, if it has any."""
    from bitvar.errors import UsageError
    from bitvar.pipeline.record import read_record

    try:
        return read_record(path)
    except UsageError:
        return None


def _sugar(values: dict[str, Any], *, remove: bool, vary: str | None, masked: bool) -> dict[str, Any]:
    """Translate --remove and --vary to settings of an edit."""
    from bitvar.config import unknown
    from bitvar.errors import UsageError

    if vary is not None and vary not in ("details", "layout"):
        raise UsageError(unknown(f"variation {vary!r}", vary, ("details", "layout")))
    for name, wanted in (("--remove", remove), ("--vary", vary is not None)):
        other = next((key for key in ("method", "strength", "keep_scales", "upscale", "preset") if key in values), None)
        if wanted and other is not None:
            option = other.replace("_", "-")
            raise UsageError(f"{name} and --{option} were given.", f"{name} sets it itself", "give one of them")
    if remove and vary is not None:
        raise UsageError("--remove and --vary were given.", "they set the same", "give one of them")
    if remove and not masked:
        raise UsageError("--remove doesn't say what.", "there is no mask", "add --mask FILE or --box 10,10,20,20")
    if remove:
        return {"method": "redraw", "strength": _TAKE_OUT, "fill": "surroundings"}
    if vary == "details":
        return {"method": "redraw", "strength": _KEEP_LAYOUT}
    return {"method": "redraw", "keep_scales": 1} if vary == "layout" else {}


def _images(
    path: Path, mask: Path | None, mask_is: str, box: str | None, extend: str | None, *, invert: bool
) -> "tuple[Image.Image, Image.Image | None]":
    """Read the image, extended if that is asked for, and its mask."""
    from bitvar.editing import masks
    from bitvar.editing.images import file_bytes, open_rgba
    from bitvar.errors import UsageError

    given = [name for name, value in (("--mask", mask), ("--box", box), ("--extend", extend)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} were given.", "both say where to change", "give one of them")
    if invert and (not given or extend is not None):
        why = "what was added must change" if extend is not None else "there is no mask"
        raise UsageError(
            "--invert has nothing to invert.", why, "leave it out, or give --mask FILE or --box 10,10,20,20"
        )
    image = open_rgba(file_bytes(path), f"'{path}'")
    marked = None
    if mask is not None:
        convention = _convention(mask_is)
        marked = masks.read_mask(open_rgba(file_bytes(mask), f"'{mask}'"), image.size, convention=convention)
    elif box is not None:
        marked = masks.box_mask(image.size, _four("box", box))
    elif extend is not None:
        image, marked = masks.extend(image, _four("extend", extend))
    return image, masks.invert(marked) if invert and marked is not None else marked


def _convention(text: str) -> "Convention":
    from bitvar.config import unknown
    from bitvar.editing.masks import Convention
    from bitvar.errors import UsageError

    known: tuple[Convention, ...] = get_args(Convention)
    for name in known:
        if text == name:
            return name
    raise UsageError(unknown(f"--mask-is {text!r}", text, known))


def _four(option: str, text: str) -> tuple[int, int, int, int]:
    from bitvar.errors import UsageError

    try:
        first, second, third, fourth = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"Can't read --{option} {text!r}.", fix="write four whole numbers, such as 8,8,32,32"
        ) from None
    return first, second, third, fourth


def _prompt(prompt: str | None, known: "ImageRecord | None", *, without: bool) -> str:
    """The prompt of an edit: the given one, or the one in the image's settings."""
    if prompt is not None:
        return prompt
    if without or known is None or not known.prompt:
        say("Drawing without a prompt.", err=True)
        return ""
    say(f"Using the image's own prompt: {known.prompt!r}", err=True)
    return known.prompt


def _spec(
    image: "Image.Image | Path",
    mask: "Image.Image | None",
    values: dict[str, Any],
    prompt: str,
    known: "ImageRecord | None",
) -> "EditSpec":
    """Make the edit, with the source prompt from the image's own settings where it is needed."""
    from bitvar.editing.spec import EditSpec
    from bitvar.errors import UsageError

    values = dict(values)
    own = known.prompt if known is not None and not known.mix and not known.grid else ""
    free = mask is None and not {"method", "strength", "keep_scales", "upscale", "source_prompt"} & values.keys()
    if free and values.get("exact") and prompt == own:
        why = "the prompt is the image's own, and there is no mask"
        raise UsageError("Nothing would change.", why, "give another prompt, --mask or --box, or --vary details")
    if own and ((free and prompt != own) or (values.get("method", "redraw") != "redraw")):
        values.setdefault("source_prompt", own)
        if free:
            say(f"Changing what differs from {own!r}; --strength 0.5 redraws the whole image instead.", err=True)
    return EditSpec.parse({"image": image, "mask": mask, **values}, source="the options")


def _job(
    spec: "EditSpec",
    prompt: str,
    size: str | None,
    seed: int | None,
    num_images: int | None,
    negative: str | None,
    sampling: dict[str, Any],
) -> "PromptJob":
    """Make the job of an edit."""
    from bitvar.cli.prompt_job import JobSettings, new_job
    from bitvar.cli.sizes import read_size

    settings = JobSettings(
        prompt=prompt,
        negative=negative,
        seed=seed,
        num_images=num_images,
        size=read_size(size, None),
        sampling={name: value for name, value in sampling.items() if value is not None},
    )
    return replace(new_job(settings), edit=spec)


def _at_the_images_size(job: "PromptJob", pipeline: "InfinityPipeline", image: "Image.Image") -> "PromptJob":
    """Draw at the model's size nearest to the image's if no other is asked for."""
    if job.size is None:
        rows, columns = pipeline.schedule_near(image.height, image.width)[-1]
        job = replace(job, generated=(columns * pipeline.stride, rows * pipeline.stride))
    return job
