"""`bitvar generate PROMPT`."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline, ScaleEvent


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG to write. Default: named by the prompt.")
    ] = None,
    from_picture: Annotated[
        Path | None, typer.Option("--from", help="Make a picture again from the settings inside it.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=64, help="How many pictures.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first picture; the next count up. Default: random.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; the nearest the model knows.")] = None,
    aspect: Annotated[str | None, typer.Option(help="Width to height, as 16:9, at the model's usual area.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance scale; one value, or one a scale: 1,2,3,...")] = None,
    temperature: Annotated[str | None, typer.Option(help="0 is greedy; one value, or one a scale.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="1 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="A bit is certain once it is as likely as this.")
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="What to steer away from; needs a --guidance other than 1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub id. Default: the small one in the package.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of the model's tokenizer with its decoder trained further.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="PATH_OR_ID[:WEIGHT] of an adapter; may be given several times.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    previews: Annotated[Path | None, typer.Option(help="Folder for the picture after each scale.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="One sheet of all pictures instead of a file each.")] = False,
    enlarge: Annotated[
        int, typer.Option(min=1, max=16, help="Write the picture so many times as large, smoothly; adds no detail.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a prompt into a picture. The PNG carries its settings: `bitvar generate --from out.png` makes it again."""
    given = {
        "seed": seed,
        "size": size,
        "aspect": aspect,
        "guidance_scale": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "negative_prompt": negative,
    }
    with exit_codes():
        settings, index, count = _settings(prompt, from_picture, n, given)
        if from_picture is not None:
            grid, enlarge, dtype, model = _how_it_was_made(settings, dtype, model)
        _check_writable(output, previews)
        began = time.perf_counter()
        pipeline = _load(model, revision, tokenizer, dtype or "auto", device)
        _check_same_model(settings, pipeline)
        _load_adapters(pipeline, lora or [], settings.pop("lora", []), again=from_picture is not None)
        _apply_size(settings, pipeline)
        event = _draw(pipeline, settings, count, previews)
        source = _model_source(model)
        files = _write(event, index, output, source, grid=grid, enlarge=enlarge)
        _report(files, pipeline, time.perf_counter() - began, as_json)


def _settings(
    prompt: str | None, from_picture: Path | None, n: int, given: dict[str, Any]
) -> tuple[dict[str, Any], int | None, int]:
    """Settings of the call, which picture of the batch is wanted (None: all), and the batch size."""
    from bitvar.cli.picture import read_settings
    from bitvar.errors import UsageError, explain

    chosen = {name: value for name, value in given.items() if value is not None}
    if from_picture is None:
        if prompt is None:
            raise UsageError(
                explain("There is no prompt.", "nothing says what to draw", 'try: bitvar generate "a red apple"')
            )
        for name in ("guidance_scale", "temperature"):
            if name in chosen:
                chosen[name] = _numbers(name, chosen[name])
        return {"prompt": prompt, **chosen}, None, n
    if prompt is not None or chosen or n != 1:
        raise UsageError(
            explain(
                "--from takes its settings from the picture.",
                "others were given too",
                "leave out the prompt and the rest",
            )
        )
    settings = read_settings(from_picture)
    return settings, settings.pop("batch_index", None), settings.pop("batch_size", 1)


def _how_it_was_made(
    settings: dict[str, Any], dtype: str | None, model: str | None
) -> tuple[bool, int, str, str | None]:
    """Whether it is a sheet, how enlarged, its dtype and model, taken out of the settings; what is given goes first."""
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    made_with = names.get(str(settings.pop("dtype", "")), "auto")
    source = settings.pop("model_source", None)
    return bool(settings.pop("grid", False)), int(settings.pop("enlarge", 1)), dtype or made_with, model or source


def _numbers(name: str, text: str) -> float | tuple[float, ...]:
    from bitvar.errors import UsageError, explain

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            explain(
                f"Can't read --{name.split('_', maxsplit=1)[0]} {text!r}.",
                "it is no number or list of numbers",
                "write 3 or 1,2,3",
            )
        ) from None
    return values[0] if len(values) == 1 else values


def _check_writable(output: Path | None, previews: Path | None) -> None:
    """Fail before the work, not after it."""
    import os

    from bitvar.errors import UsageError, explain

    if output is not None and output.suffix.lower() != ".png":
        raise UsageError(explain(f"Can't write {output}.", "only PNG carries the settings", "name it something.png"))
    for path in (output, previews):
        if path is None:
            continue
        if path is output and path.is_dir():
            raise UsageError(explain(f"Can't write {path}.", "it is a folder", "name a file"))
        parent = path if path is previews else path.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UsageError(
                explain(f"Can't write {path}.", f"{parent} is not a writable folder", "choose another path")
            )


def _load(
    model: str | None, revision: str | None, tokenizer: str | None, dtype: str, device: str
) -> "InfinityPipeline":
    from bitvar.pipeline import InfinityPipeline

    if model is None:
        typer.echo(
            "Using the small embedded model (icons, 64 px). Larger models: see README, 'Official weights'.", err=True
        )
    return InfinityPipeline.from_pretrained(model, revision=revision, tokenizer=tokenizer, dtype=dtype, device=device)


def _load_adapters(pipeline: "InfinityPipeline", options: list[str], entries: Any, *, again: bool) -> None:
    """Those of the picture that is made again, or those asked for."""
    if not options and not entries:
        return
    from bitvar.cli.lora import load_adapters, load_adapters_of_picture

    if again:
        load_adapters_of_picture(pipeline, options, entries)
    else:
        load_adapters(pipeline, options)


def _check_same_model(settings: dict[str, Any], pipeline: "InfinityPipeline") -> None:
    from bitvar import __version__
    from bitvar.errors import UsageError, explain

    version, wanted = settings.pop("version", __version__), settings.pop("model", None)
    settings.pop("device", None)
    if version != __version__:
        typer.echo(f"Note: made by bitvar {version}, this is {__version__}; the picture may differ.", err=True)
    found = pipeline.model_name
    if wanted is not None and wanted != found:
        raise UsageError(
            explain(
                f"This is not the model that made the picture: {found}.",
                f"that was {wanted}",
                "name it with --model, and --tokenizer if it had another",
            )
        )


def _apply_size(settings: dict[str, Any], pipeline: "InfinityPipeline") -> None:
    """`size` or `aspect` to height and width."""
    from bitvar.errors import UsageError, explain

    size, aspect = settings.pop("size", None), settings.pop("aspect", None)
    if size is not None and aspect is not None:
        raise UsageError(explain("Both --size and --aspect were given.", "one decides the other", "give one of them"))
    if size is None and aspect is None:
        return
    text, separator = (str(size).lower(), "x") if size is not None else (str(aspect), ":")
    try:
        width, height = (float(part) for part in text.split(separator))
    except ValueError:
        width = height = 0.0
    if not (0 < width < 1e5 and 0 < height < 1e5):
        example = "512x512" if size is not None else "16:9"
        raise UsageError(
            explain(f"Can't read the size {text!r}.", f"it is not like {example}", f"write it like {example}")
        )
    if aspect is not None:
        usual = pipeline.sizes[0]
        side = (usual[0] * usual[1]) ** 0.5
        width, height = side * (width / height) ** 0.5, side * (height / width) ** 0.5
    settings["width"], settings["height"] = max(1, round(width)), max(1, round(height))


def _draw(pipeline: "InfinityPipeline", settings: dict[str, Any], count: int, previews: Path | None) -> "ScaleEvent":
    from bitvar.files import atomic_path

    options = {key: value for key, value in settings.items() if key != "prompt" and value is not None}
    events = pipeline.stream(settings["prompt"], num_images_per_prompt=count, **options)
    event = None
    for event in _with_progress(events):
        if previews is not None:
            previews.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(event.preview()):
                with atomic_path(previews / f"scale-{event.index + 1:02d}-{i + 1}.png") as temporary:
                    image.save(temporary, format="PNG")
    assert event is not None
    return event


def _with_progress(events: Iterator["ScaleEvent"]) -> Iterator["ScaleEvent"]:
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


def _write(
    event: "ScaleEvent",
    index: int | None,
    output: Path | None,
    source: str | None,
    *,
    grid: bool,
    enlarge: int,
) -> list[dict[str, Any]]:
    from bitvar import __version__
    from bitvar.cli.picture import default_name, montage, numbered, save_png

    count = len(event.seeds)
    images = event.preview(max(event.pixels.shape[-2:]) * enlarge if enlarge > 1 else None)
    first = event.metadata[0]
    path = output or default_name(first["prompt"], first["seed"] if index is None else event.seeds[index])
    common = {"version": __version__, "model_source": source, "seed": event.seeds[0], "enlarge": enlarge}
    metadata = [{**m, **common, "batch_size": count, "batch_index": i} for i, m in enumerate(event.metadata)]
    if grid:
        save_png(montage(images), path, {**metadata[0], "grid": True})
        return [{"path": str(path), **event.metadata[0], "enlarge": enlarge}]
    files = []
    for i in range(count) if index is None else (index,):
        target = path if index is not None else numbered(path, i, count)
        save_png(images[i], target, metadata[i])
        files.append({"path": str(target), **event.metadata[i], "enlarge": enlarge})
    return files


def _model_source(model: str | None) -> str | None:
    """What to put in the picture: a hub id, but never a path of this machine."""
    return model if model is not None and not Path(model).exists() else None


def _report(files: list[dict[str, Any]], pipeline: "InfinityPipeline", seconds: float, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"files": files, "model": pipeline.model_name, "seconds": round(seconds, 3)}))
        return
    for file in files:
        size = "x".join(str(file[side] * file["enlarge"]) for side in ("width", "height"))
        typer.echo(f"{file['path']}  {size}  seed {file['seed']}  {file['model']}  {seconds:.1f} s")
