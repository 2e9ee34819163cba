"""`bitvar generate PROMPT`."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from PIL import Image

    from bitvar.cli.drawing import Changes, Drawing
    from bitvar.cli.image_output import Written
    from bitvar.pipeline import InfinityPipeline, ScaleEvent
    from bitvar.pipeline.record import ImageRecord

BATCH: Final = 16
"""Images of a prompts file that are drawn together."""


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File (.png, .webp, .jpg), folder, pattern with {seed}, {prompt} or {index}, or - for standard "
            "output. Default: named by prompt and seed, and never over a file that is there.",
        ),
    ] = None,
    from_image: Annotated[
        Path | None,
        typer.Option("--from", help="Make an image again from the settings inside it; other options change them."),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts of a text file, one a line, or of a .jsonl file; - for standard input.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", min=1, max=64, help="Number of images. Default: 1.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image; the next count up. Default: random.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; the nearest the model knows.")] = None,
    aspect: Annotated[str | None, typer.Option(help="Width to height, as 16:9, at the model's usual area.")] = None,
    exact_size: Annotated[
        bool | None, typer.Option("--exact-size/--no-exact-size", help="Resize and cut to exactly that size.")
    ] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance scale; one value, or one a scale: 1,2,3,...")] = None,
    temperature: Annotated[str | None, typer.Option(help="0 is greedy; one value, or one a scale.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="1 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="A bit is certain once it is as likely as this.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What to steer away from; needs a --guidance other than 1. Empty: nothing.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name, folder or hub id. Default: icons, the small one in the package.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of the model's tokenizer with its decoder trained further.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="PATH_OR_ID[:WEIGHT] of an adapter; may be given several times.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    previews: Annotated[Path | None, typer.Option(help="Folder for the image after each scale.")] = None,
    grid: Annotated[
        bool | None, typer.Option("--grid/--no-grid", help="One sheet of a prompt's images instead of a file each.")
    ] = None,
    enlarge: Annotated[
        int | None, typer.Option(min=1, max=16, help="Write it so many times as large, smoothly; adds no detail.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a prompt into an image. The file carries its settings: `bitvar generate --from out.png` makes it again."""
    with exit_codes():
        from bitvar.cli.drawing import Changes
        from bitvar.cli.image_output import check_sizes, destinations, report
        from bitvar.cli.sizes import read_size

        sampling = {
            "guidance_scale": _numbers("guidance", guidance),
            "temperature": _numbers("temperature", temperature),
        }
        sampling |= {"top_k": top_k, "top_p": top_p}
        changes = Changes(
            prompt=prompt,
            negative=negative,
            seed=seed,
            num_images=num_images,
            size=read_size(size, aspect),
            exact=exact_size,
            grid=grid,
            enlarge=enlarge,
            sampling={name: value for name, value in sampling.items() if value is not None},
        )
        _check_options(prompt, from_image, prompts, previews)
        record, drawings = _requested(changes, from_image, prompts)
        targets = destinations(output, drawings, many=prompts is not None)
        if previews is not None:
            _check_previews(previews)
        began = time.perf_counter()
        pipeline = _load(model, revision, tokenizer, dtype, device, record=record, path=from_image)
        _load_adapters(pipeline, lora or [], record)
        drawings = _settle(drawings, pipeline, prompts)
        check_sizes(drawings, targets)
        _note_unknown_words(drawings, model, record)
        extra = _provenance(model, record)
        files = _draw(pipeline, drawings, targets, previews, extra)
        report(files, pipeline.model_name, time.perf_counter() - began, as_json=as_json)


def _check_options(
    prompt: str | None,
    from_image: Path | None,
    prompts: str | None,
    previews: Path | None,
) -> None:
    """Refuse options that would be of no use together."""
    from bitvar.errors import UsageError

    if prompts is not None:
        for name, given in (("a prompt", prompt), ("--from", from_image), ("--previews", previews)):
            if given is not None:
                why = "the file has the prompts, and each has images of its own"
                raise UsageError(f"--prompts and {name} were given.", why, "give one of them")


def _check_previews(folder: Path) -> None:
    from bitvar.cli.image_output import check_writable

    check_writable(folder, folder)


def _requested(
    changes: "Changes", from_image: Path | None, prompts: str | None
) -> "tuple[ImageRecord | None, list[Drawing]]":
    """What to draw, and the record that it goes on from, if any."""
    from bitvar.cli.drawing import changed, differences, drawing_of, new_drawing
    from bitvar.pipeline.record import read_record

    if prompts is not None:
        from bitvar.cli.prompts_file import read_drawings

        return None, read_drawings(prompts, changes)
    if from_image is None:
        return None, [new_drawing(changes)]
    record = read_record(from_image)
    before = drawing_of(record)
    after = changed(before, changes)
    for difference in differences(before, after):
        say(f"Changed from {from_image}: {difference}", err=True)
    return record, [after]


def _numbers(name: str, text: str | None) -> float | tuple[float, ...] | None:
    from bitvar.errors import UsageError

    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        why = "it is no number or list of numbers"
        raise UsageError(f"Can't read --{name} {text!r}.", why, "write 3 or 1,2,3") from None
    return values[0] if len(values) == 1 else values


def _load(
    model: str | None,
    revision: str | None,
    tokenizer: str | None,
    dtype: str | None,
    device: str,
    *,
    record: "ImageRecord | None",
    path: Path | None,
) -> "InfinityPipeline":
    from bitvar.cli.from_record import check_same_model, dtype_of, model_of
    from bitvar.pipeline import InfinityPipeline

    source: str | Path | None = model
    if model is None and record is not None and path is not None:
        source = model_of(record, path)
    if source is None:
        say("Using the small embedded model (icons, 64 px). Larger models: see README, 'Official weights'.", err=True)
    kept = "auto" if record is None else dtype_of(record)
    chosen = kept if dtype is None else dtype
    pipeline = InfinityPipeline.from_pretrained(
        source, revision=revision, tokenizer=tokenizer, dtype=chosen, device=device
    )
    if record is not None:
        check_same_model(record, pipeline)
    return pipeline


def _load_adapters(pipeline: "InfinityPipeline", options: list[str], record: "ImageRecord | None") -> None:
    """Those of the image that is made again, or those asked for."""
    if not options and not (record and record.lora):
        return
    from bitvar.cli.lora import load_adapters, load_adapters_of_record

    if record is not None:
        load_adapters_of_record(pipeline, options, record.lora)
    else:
        load_adapters(pipeline, options)


def _settle(drawings: "list[Drawing]", pipeline: "InfinityPipeline", prompts: str | None) -> "list[Drawing]":
    """Check everything against the model before anything is drawn, and say how sizes differ, once each."""
    from bitvar.cli.drawing import settled
    from bitvar.cli.prompts_file import refuse_bad_lines
    from bitvar.errors import UsageError

    ready, notes, problems = [], {}, []
    for drawing in drawings:
        try:
            one, note = settled(drawing, pipeline)
        except UsageError as error:
            if prompts is None:
                raise
            problems.append((drawing.line, error))
            continue
        ready.append(one)
        notes |= {} if note is None else {note: None}
    refuse_bad_lines(problems, prompts or "")
    for note in notes:
        say(note, err=True)
    return ready


def _note_unknown_words(drawings: "list[Drawing]", model: str | None, record: "ImageRecord | None") -> None:
    from bitvar.cli.unknown_words import note

    source = model or (record.model_source if record is not None else None)
    if (text := note([drawing.prompt for drawing in drawings], source)) is not None:
        say(text, err=True)


def _provenance(model: str | None, record: "ImageRecord | None") -> dict[str, Any]:
    """What a record says beyond the pipeline's metadata: the hub id, but never a path of this machine."""
    from bitvar import __version__

    source = model if model is not None and "/" in model and not Path(model).exists() else None
    if record is None:
        return {"version": __version__, "model_source": source}
    return {"version": __version__, "model_source": source or record.model_source, "lora": record.lora}


def _draw(
    pipeline: "InfinityPipeline",
    drawings: "Sequence[Drawing]",
    targets: Any,
    previews: Path | None,
    extra: dict[str, Any],
) -> "list[Written]":
    """Draw everything, images of equal settings together, and write each drawing once all of its images are there."""
    written: dict[int, list[Written]] = {}
    made: dict[int, dict[int, tuple[Image.Image, ImageRecord]]] = {}
    batches = list(_batches(drawings))
    for number, batch in enumerate(batches, 1):
        if len(batches) > 1:
            say(f"batch {number}/{len(batches)}", err=True)
        event = _stream(pipeline, [(drawings[which], image) for which, image in batch], previews)
        for (which, image), pixels, metadata in zip(batch, event.preview(), event.metadata, strict=True):
            made.setdefault(which, {})[image] = _one(drawings[which], pixels, {**metadata, **extra})
        for which in [which for which, images in made.items() if len(images) == len(drawings[which].seeds)]:
            images = made.pop(which)
            parts = [images[i] for i in range(len(images))]
            written[which] = _write(drawings[which], parts, None if targets is None else targets[which])
    return [file for which in sorted(written) for file in written[which]]


def _batches(drawings: "Sequence[Drawing]") -> Iterator[list[tuple[int, int]]]:
    """Which drawing and which of its images, of equal settings together. A single drawing is one batch."""
    from bitvar.cli.drawing import options_of

    limit = BATCH if len(drawings) > 1 else sys.maxsize
    groups: dict[str, list[tuple[int, int]]] = {}
    for which, drawing in enumerate(drawings):
        groups.setdefault(repr(sorted(options_of(drawing).items())), []).extend(
            (which, image) for image in range(len(drawing.seeds))
        )
    for group in groups.values():
        for start in range(0, len(group), limit):
            yield group[start : start + limit]


def _stream(pipeline: "InfinityPipeline", batch: "list[tuple[Drawing, int]]", previews: Path | None) -> "ScaleEvent":
    from bitvar.cli.drawing import options_of
    from bitvar.cli.image_output import write_previews

    prompts, seeds = [drawing.prompt for drawing, _ in batch], [drawing.seeds[image] for drawing, image in batch]
    event = None
    for event in _with_progress(pipeline.stream(prompts, seed=seeds, **options_of(batch[0][0]))):
        if previews is not None:
            write_previews(event.preview(), previews, event.index + 1)
    assert event is not None
    return event


def _one(drawing: "Drawing", image: "Image.Image", metadata: dict[str, Any]) -> "tuple[Image.Image, ImageRecord]":
    """An image in its final size, and its record."""
    from bitvar.cli.image_output import finished
    from bitvar.pipeline.record import ImageRecord

    asked = drawing.asked or (None, None)
    values = {
        "requested_width": asked[0],
        "requested_height": asked[1],
        "exact_size": drawing.exact,
        "enlarge": drawing.enlarge,
    }
    return finished(image, drawing), ImageRecord.of(metadata, **values)


def _write(drawing: "Drawing", parts: "list[tuple[Image.Image, ImageRecord]]", targets: Any) -> "list[Written]":
    from bitvar.cli.image_output import sheet_of, write_drawing

    images, records = [image for image, _ in parts], [record for _, record in parts]
    if drawing.grid:
        sheet, record = sheet_of(images, records)
        images, records = [sheet], [record]
    return write_drawing(images, records, targets)


def _with_progress(events: "Iterator[ScaleEvent]") -> "Iterator[ScaleEvent]":
    """Show each scale on stderr: over itself on a terminal, line by line in a log."""
    began = time.perf_counter()
    end = "\r" if sys.stderr.isatty() else "\n"
    for event in events:
        share = event.tokens_done / event.tokens_total
        bar = "#" * round(20 * share) + "." * (20 - round(20 * share))
        seconds = time.perf_counter() - began
        line = f"scale {event.index + 1}/{event.total}  [{bar}] {share:4.0%} of tokens  {seconds:.1f} s"
        typer.echo(line, err=True, nl=False)
        typer.echo(end, err=True, nl=False)
        yield event
    if end == "\r":
        typer.echo("", err=True)
