"""`bitvar generate PROMPT`."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.ranks import Rank

if TYPE_CHECKING:
    from PIL import Image

    from bitvar.cli.image_output import Written
    from bitvar.cli.prompt_job import JobSettings, PromptJob
    from bitvar.pipeline import InfinityPipeline, ScaleEvent
    from bitvar.pipeline.file_names import Target
    from bitvar.pipeline.record import ImageRecord
    from bitvar.pipeline.request import GenerationKwargs
    from bitvar.sampling.watermark import Watermark

BATCH_SIZE: Final = 16
"""Most images of a prompts file that are generated together."""


def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to draw.")] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="File (.png, .webp, .jpg), folder, pattern with {seed}, {prompt} or {index}, or - for standard "
            "output. Default: a new file in the current folder, named by prompt and seed.",
        ),
    ] = None,
    from_image: Annotated[
        Path | None,
        typer.Option("--from", help="Make an image again from the settings inside it; other options change them."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Text file with one prompt per line, .jsonl file with one object per line, or .csv file with a "
            "header; - for stdin."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a run over --prompts: the same command goes on after a stop, several share the work, and "
            "images.jsonl lists the images. -o may then give a pattern of names. Default: no run.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=256, help="Images of a run to draw at once. Default: 16.")
    ] = None,
    ray_actors: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Draw a run with this number of actors of a Ray cluster. Default: no Ray."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster for --ray-actors; auto is this machine's. Default: a new one on this machine."),
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", min=1, max=64, help="Number of images. Default: 1.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image; the next ones count up. Default: random.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT in pixels; the model draws the nearest size it knows. Default: the model's."),
    ] = None,
    aspect: Annotated[
        str | None,
        typer.Option(help="Aspect ratio, width first, such as 16:9, at the model's usual area."),
    ] = None,
    exact_size: Annotated[
        bool | None,
        typer.Option("--exact-size/--no-exact-size", help="Resize and crop to exactly that size. Default: no."),
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(help="Guidance scale: one value, or one per scale (1,2,3). Default: the model's.")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option(help="Temperature: one value, or one per scale; 0 is greedy. Default: the model's.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="1 is greedy; other values have no effect. Default: the model's.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Take a bit's likelier value if its probability is at least this; 0 is off. Default: the model's.",
        ),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(help="Text to steer away from; needs a --guidance other than 1. Default: none."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="sharp|varied|faithful|none",
            help="Preset of how bits are drawn: more detail, more variety between seeds, or the likeliest image. "
            "Default: none.",
        ),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="auto|transparent|opaque",
            help="Whether images are transparent, in PNG and WebP files of a model that draws opacity. "
            "Default: auto, as the model draws.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name, folder or hub id. Default: icons, the small model in the package.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model's hub id. Default: the main branch.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the model's tokenizer with a fine-tuned decoder. Default: the model's."),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="Adapter to apply, as PATH_OR_ID or PATH_OR_ID:WEIGHT; repeatable.")
    ] = None,
    watermark: Annotated[
        Path | None,
        typer.Option(
            metavar="KEYFILE",
            help="Key file of `bitvar watermark new-key`, to mark the image's bits so that the key detects it. "
            "Default: no watermark.",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="ADAPTER",
            help="Control adapter with which images follow --control-image: lines, the one in the package, or a file, "
            "folder or hub id. Default: none.",
        ),
    ] = None,
    control_image: Annotated[
        Path | None,
        typer.Option(help="Image to follow: a drawing of lines, dark on light or light on dark. Default: none."),
    ] = None,
    control_strength: Annotated[
        str | None,
        typer.Option(help="How much to follow it, 0 to 4: one value, or one per scale (1,1,0.5,0). Default: 1."),
    ] = None,
    control_kind: Annotated[
        str | None,
        typer.Option(
            metavar="lines|edges",
            help="lines: the control image is a drawing; edges: its edges are followed. Default: lines.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 or fp16. Default: auto, bf16 on CUDA and fp32 elsewhere.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", show_default=True)] = "auto",
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOX:PROMPT", help="Another prompt in a box, left,top,width,height as shares of the image."
        ),
    ] = None,
    switch: Annotated[
        list[str] | None, typer.Option(metavar="SCALE:PROMPT", help="Another prompt from a scale on, counted from 1.")
    ] = None,
    towards: Annotated[
        list[str] | None,
        typer.Option(metavar="WEIGHT:PROMPT", help="Another prompt in part: a weight from 0 to 1, or one per scale."),
    ] = None,
    towards_seed: Annotated[
        str | None, typer.Option(metavar="SEED:WEIGHT", help="Another seed in part, for images between two.")
    ] = None,
    fast: Annotated[
        str | None,
        typer.Option(
            metavar="auto|exact|off|NAME,...",
            help="Optimizations: auto, exact (all that change results by rounding alone), off, or names with commas. "
            "Default: auto, exact on a CPU and off elsewhere.",
        ),
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(
            metavar="text|blocks|text,blocks",
            help="Parts that wait in the host's memory while they don't compute: text, the text encoder; blocks, on "
            "CUDA, the transformer's blocks. Default: none.",
        ),
    ] = None,
    sequential_guidance: Annotated[
        bool,
        typer.Option(
            "--sequential-guidance", help="Compute guidance's two halves one after the other, to save memory."
        ),
    ] = False,
    tile: Annotated[bool, typer.Option("--tile", help="Decode images in tiles of 256 pixels, to save memory.")] = False,
    previews: Annotated[
        Path | None, typer.Option(help="Folder for the image after each scale. Default: no previews.")
    ] = None,
    grid: Annotated[
        bool | None, typer.Option("--grid/--no-grid", help="Put a prompt's images on one sheet. Default: no.")
    ] = None,
    enlarge: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Enlarge the image by this factor, without adding detail. Default: 1."),
    ] = None,
    rewriter_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible API whose --rewriter-model expands each prompt first; BITVAR_REWRITER_KEY has its "
            "key. Default: prompts are drawn as they are.",
        ),
    ] = None,
    rewriter_model: Annotated[
        str | None,
        typer.Option(help="Model at --rewriter-url, or the folder or hub id of one that runs here. Default: none."),
    ] = None,
    rewriter_instruction: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instruction for the rewriter. Default: the one in the package.")
    ] = None,
    rewriter_temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Temperature of the answers of --rewriter-url. Default: 0.")
    ] = None,
    rewriter_cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of answers, none of which is asked twice. Default: the user's cache."),
    ] = None,
    rewrites: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Rewritten prompts that an earlier run recorded, in place of a model. Default: none."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a prompt into an image. The file carries its settings: `bitvar generate --from out.png` makes it again."""
    rank = Rank.read()
    with exit_codes(), rank.quiet_unless_main():
        started = time.perf_counter()
        from bitvar.bulk import DrawingHooks
        from bitvar.cli import bulk_run
        from bitvar.cli.control import ControlOptions, note_other_map, read_control_options
        from bitvar.cli.image_output import Timings, check_sizes, destinations, report
        from bitvar.cli.memory_options import MemoryOptions
        from bitvar.cli.mixing import read_mix, read_mixed_seed
        from bitvar.cli.pipeline_options import PipelineOptions
        from bitvar.cli.prompt_job import JobSettings, read_background, read_quality
        from bitvar.cli.rewriting import RewriteOptions
        from bitvar.cli.sizes import read_size

        sampling = {
            "guidance_scale": read_numbers("guidance", guidance),
            "temperature": read_numbers("temperature", temperature),
            "top_k": top_k,
            "top_p": top_p,
        }
        settings = JobSettings(
            prompt=prompt,
            negative=negative,
            seed=seed,
            num_images=num_images,
            size=read_size(size, aspect),
            exact_size=exact_size,
            grid=grid,
            enlarge=enlarge,
            background=None if background is None else read_background(background),
            quality=None if quality is None else read_quality(quality),
            sampling={name: value for name, value in sampling.items() if value is not None},
            mix=read_mix(region or [], switch or [], towards or []),
            mixed_seed=read_mixed_seed(towards_seed),
        )
        _check_options(prompt, from_image, prompts, previews)
        rank.require_shared(out_given=out is not None, source=prompts)
        rewriting = RewriteOptions(
            rewriter_url, rewriter_model, rewriter_instruction, rewriter_temperature, rewriter_cache, rewrites
        )
        run = bulk_run.RunOptions.read(out, output, batch_size, (ray_actors, ray_address), prompts=prompts, grid=grid)
        record, jobs = _read_jobs(settings, from_image, prompts)
        if run is None and prompts is not None:
            bulk_run.require_no_names(jobs, prompts)
        mark = _read_watermark(watermark, record, from_image)
        wanted = ControlOptions(
            control, control_image, read_numbers("control-strength", control_strength), control_kind
        )
        followed = read_control_options(wanted, record, from_image)
        targets = None if run else destinations(output, jobs, many=prompts is not None)
        if previews is not None:
            _check_previews(previews)
        saving = MemoryOptions.read(offload, sequential_guidance=sequential_guidance, tile=tile)
        source = PipelineOptions(
            model, revision, tokenizer, dtype, fast, saving, tuple(lora or ()), wanted, record, from_image
        )
        pipeline = source.load("cpu" if run and run.cluster else rank.device(device))
        loaded = time.perf_counter()
        jobs = _resolve(rewriting.applied_to(jobs, device=str(pipeline.device)), pipeline, prompts)
        check_sizes(jobs, targets)
        note_unknown(jobs, pipeline, model, record)
        note_other_map(followed, jobs[0].generated or pipeline.sizes[0], record, from_image)
        provenance = provenance_of(model, record)
        if run is not None:
            result = bulk_run.draw_run(
                run,
                jobs,
                pipeline,
                shared=bulk_run.shared_settings(settings),
                hooks=DrawingHooks(mark, followed),
                provenance=provenance,
                load=partial(source.load, device),
            )
            bulk_run.report(run, result, pipeline.model_name, load_seconds=loaded - started, as_json=as_json)
            return
        hooks: GenerationKwargs = {"watermark": mark, "control": followed}
        files = draw(pipeline, jobs, targets, previews, provenance=provenance, hooks=hooks)
        timings = Timings(load=loaded - started, draw=time.perf_counter() - loaded)
        report(files, pipeline.model_name, timings, as_json=as_json)


def _check_options(
    prompt: str | None,
    from_image: Path | None,
    prompts: str | None,
    previews: Path | None,
) -> None:
    """Refuse options that exclude each other."""
    from bitvar.errors import UsageError

    if prompts is not None:
        for name, value in (("a prompt", prompt), ("--from", from_image), ("--previews", previews)):
            if value is not None:
                why = "the file has the prompts, and each has its own images"
                raise UsageError(f"--prompts and {name} were given.", why, "give one of them")


def _check_previews(folder: Path) -> None:
    from bitvar.cli.image_output import check_writable

    check_writable(folder, folder)


def _read_jobs(
    settings: "JobSettings", from_image: Path | None, prompts: str | None
) -> "tuple[ImageRecord | None, list[PromptJob]]":
    """Read what to draw, and the record of the image to make again, if any."""
    from bitvar.cli import prompts_file
    from bitvar.cli.prompt_job import differences, job_from_record, new_job, with_settings
    from bitvar.errors import UsageError
    from bitvar.pipeline.record import read_record

    if prompts is not None:
        return None, prompts_file.read_jobs(prompts, settings)
    if from_image is None:
        return None, [new_job(settings)]
    record = read_record(from_image)
    if record.edit is not None:
        why = "its settings name that image by its digest alone"
        raise UsageError(f"{from_image} was edited from another image.", why, "repeat it with bitvar edit")
    before = job_from_record(record)
    after = with_settings(before, settings)
    for difference in differences(before, after):
        say(f"Changed from {from_image}: {difference}", err=True)
    return record, [after]


def _read_watermark(key_file: Path | None, record: "ImageRecord | None", from_image: Path | None) -> "Watermark | None":
    """Read the key file, and refuse to make a marked image again without its own key."""
    from bitvar.errors import UsageError
    from bitvar.provenance.key_files import read_key

    mark = None if key_file is None else read_key(key_file)
    given, recorded = mark and mark.key_id, record and record.watermark
    if recorded is not None and given != recorded:
        why = f"it was drawn with key {recorded}, and " + (
            f"{key_file} is key {given}" if given else "no key was given"
        )
        raise UsageError(f"{from_image} has a watermark.", why, f"name the file of key {recorded} with --watermark")
    if record is not None and given != recorded:
        say(f"Changed from {from_image}: watermark: none -> {given}", err=True)
    return mark


def read_numbers(option: str, text: str | None) -> float | tuple[float, ...] | None:
    from bitvar.errors import UsageError

    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        why = "it is not a number or a list of numbers"
        raise UsageError(f"Can't read --{option} {text!r}.", why, "write 3 or 1,2,3") from None
    return values[0] if len(values) == 1 else values


def _resolve(jobs: "list[PromptJob]", pipeline: "InfinityPipeline", prompts: str | None) -> "list[PromptJob]":
    """Check all jobs against the model before anything is drawn, and print each note about sizes once."""
    from bitvar.cli.prompt_job import resolve_job
    from bitvar.cli.prompts_file import refuse_bad_lines
    from bitvar.errors import UsageError

    resolved, notes, problems = [], {}, []
    for job in jobs:
        try:
            ready, note = resolve_job(job, pipeline)
        except UsageError as error:
            if prompts is None:
                raise
            problems.append((job.line, error))
            continue
        resolved.append(ready)
        notes |= {} if note is None else {note: None}
    refuse_bad_lines(problems, prompts or "")
    for note in notes:
        say(note, err=True)
    return resolved


def note_unknown(
    jobs: "list[PromptJob]", pipeline: "InfinityPipeline", model: str | None, record: "ImageRecord | None"
) -> None:
    from bitvar.cli.unknown_words import note_unknown_words
    from bitvar.weights.hub import EMBEDDED_MODEL

    name = model or (record.model_source if record is not None else None) or EMBEDDED_MODEL.name
    prompts = [text for job in jobs for text in (job.prompt, *(mixed.prompt for mixed in job.mix))]
    text = note_unknown_words(prompts, pipeline.components.vocabulary, name)
    if text is not None:
        say(text, err=True)


def provenance_of(model: str | None, record: "ImageRecord | None") -> dict[str, Any]:
    """Record values that the pipeline's metadata lacks: version and hub id, but never a path of this machine."""
    from bitvar import __version__

    source = model if model is not None and "/" in model and not Path(model).exists() else None
    if record is None:
        return {"version": __version__, "model_source": source}
    return {"version": __version__, "model_source": source or record.model_source, "lora": record.lora}


def draw(
    pipeline: "InfinityPipeline",
    jobs: "Sequence[PromptJob]",
    targets: "list[list[Target]] | None",
    previews: Path | None,
    *,
    provenance: dict[str, Any],
    hooks: "GenerationKwargs",
) -> "list[Written]":
    """Generate images of equal settings together, and write each job once all of its images are there."""
    written: dict[int, list[Written]] = {}
    pending: dict[int, dict[int, tuple[Image.Image, ImageRecord]]] = {}
    batches = list(_batches(jobs))
    for number, batch in enumerate(batches, 1):
        if len(batches) > 1:
            say(f"batch {number}/{len(batches)}", err=True)
        event = _stream(pipeline, [(jobs[j], i) for j, i in batch], previews, hooks)
        for (j, i), image, metadata in zip(batch, event.preview(), event.metadata, strict=True):
            pending.setdefault(j, {})[i] = _finish(jobs[j], image, {**metadata, **provenance})
        for j in [j for j, images in pending.items() if len(images) == len(jobs[j].seeds)]:
            images = pending.pop(j)
            in_order = [images[i] for i in range(len(images))]
            written[j] = _write(jobs[j], in_order, None if targets is None else targets[j])
    return [file for j in sorted(written) for file in written[j]]


def _batches(jobs: "Sequence[PromptJob]") -> Iterator[list[tuple[int, int]]]:
    """Batches of equal settings, each image as indices of its job and within the job. One job is one batch."""
    from bitvar.cli.prompt_job import options_of

    limit = BATCH_SIZE if len(jobs) > 1 else sys.maxsize
    groups: dict[str, list[tuple[int, int]]] = {}
    for j, job in enumerate(jobs):
        images = [(j, i) for i in range(len(job.seeds))]
        groups.setdefault(repr(sorted(options_of(job).items())), []).extend(images)
    for group in groups.values():
        for start in range(0, len(group), limit):
            yield group[start : start + limit]


def _stream(
    pipeline: "InfinityPipeline",
    batch: "list[tuple[PromptJob, int]]",
    previews: Path | None,
    hooks: "GenerationKwargs",
) -> "ScaleEvent":
    from bitvar.cli.image_output import write_previews
    from bitvar.cli.prompt_job import options_of

    prompts, seeds = [job.prompt for job, _ in batch], [job.seeds[i] for job, i in batch]
    event = None
    options: dict[str, Any] = {**hooks, **options_of(batch[0][0]), "seed": seeds}
    for event in _with_progress(pipeline.stream(prompts, **options)):
        if previews is not None:
            write_previews(event.preview(), previews, event.index + 1)
    assert event is not None
    return event


def _finish(job: "PromptJob", image: "Image.Image", metadata: dict[str, Any]) -> "tuple[Image.Image, ImageRecord]":
    """Bring an image to its final size, and make its record."""
    from bitvar.pipeline.image_files import resize_as_recorded
    from bitvar.pipeline.record import ImageRecord

    record = ImageRecord.of(metadata, **job.recorded)
    return resize_as_recorded(image, record), record


def _write(
    job: "PromptJob", finished: "list[tuple[Image.Image, ImageRecord]]", targets: "list[Target] | None"
) -> "list[Written]":
    from bitvar.cli.image_output import sheet_of, write_job

    images, records = [image for image, _ in finished], [record for _, record in finished]
    if job.grid:
        sheet, record = sheet_of(images, records)
        images, records = [sheet], [record]
    return write_job(images, records, targets)


def _with_progress(events: "Iterator[ScaleEvent]") -> "Iterator[ScaleEvent]":
    """Print each scale on stderr: over the last line on a terminal, line by line in a log."""
    started = time.perf_counter()
    end = "\r" if sys.stderr.isatty() else "\n"
    for event in events:
        share = event.tokens_done / event.tokens_total
        bar = "#" * round(20 * share) + "." * (20 - round(20 * share))
        seconds = time.perf_counter() - started
        line = f"scale {event.index + 1}/{event.total}  [{bar}] {share:4.0%} of tokens  {seconds:.1f} s"
        typer.echo(line, err=True, nl=False)
        typer.echo(end, err=True, nl=False)
        yield event
    if end == "\r":
        typer.echo("", err=True)
