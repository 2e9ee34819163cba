"""`bitvar evaluate`: reconstruction by tokenizers, JPEG and WebP. Benchmarks are in `cli/scenes.py` and others."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli import fid, field, field_scores
from bitvar.cli.echo import say
from bitvar.cli.edits_benchmark import edits
from bitvar.cli.exit_codes import RUNTIME, exit_codes
from bitvar.cli.scenes import scenes
from bitvar.cli.stickers import stickers
from bitvar.cli.val_loss import val_loss

if TYPE_CHECKING:
    from bitvar.codec import ImageCodec
    from bitvar.evaluation.reconstruction.evaluate import ReconstructionSettings

app = typer.Typer(
    help="Evaluate tokenizers and models.\n\nPublished benchmarks have two stages: generate draws their prompts, and"
    " score scores the images, in the same environment or another.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DEFAULT = "general"


@app.callback()
def _callback() -> None:
    pass


@app.command()
def reconstruction(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Images, folders of them at any depth, captioned sets, indexes."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there resumes.")],
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(help="Folder, hub id, or one in the package: general, fine or icons; label=... names it."),
    ] = None,
    baselines: Annotated[str, typer.Option(help="Formats to compare with at equal size, or none.")] = "jpeg,webp",
    size: Annotated[
        list[int] | None,
        typer.Option(help="Scale and crop images to a square of this side in pixels. Default: their own size."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Restrict captioned sets and indexes to this split.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images after which to stop.")] = None,
    sheet: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of images on the sheet, evenly by rank. Default: best, middle and worst three."
        ),
    ] = None,
    refine_steps: Annotated[
        int, typer.Option(min=0, help="Refinement steps: encode again with the error of the decoded image added.")
    ] = 0,
    feature_network: Annotated[
        str, typer.Option(help="Network of the Frechet distance: mobilenet or inception.")
    ] = "mobilenet",
    distance: Annotated[str, typer.Option(help="Perceptual distance: mobilenet or lpips.")] = "mobilenet",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Precision of the tokenizers: auto, fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure how well tokenizers reconstruct images, per scale and size. Writes report.json and sheet.png.

    Images that can't be used are named and left out of the results; the exit code is 1 then.
    """
    with exit_codes():
        from bitvar.evaluation.reconstruction.evaluate import (
            NamedTokenizer,
            ReconstructionSettings,
            evaluate_reconstruction,
        )
        from bitvar.evaluation.reconstruction.images import name_source
        from bitvar.runtime.placement import resolve_device, resolve_dtype
        from bitvar.weights.hub import EMBEDDED_TOKENIZER

        chosen = resolve_device(device)
        kind = str(resolve_dtype(dtype, chosen)).removeprefix("torch.")
        formats = _formats(baselines)
        codecs = _load(tokenizer or [f"{_DEFAULT}={EMBEDDED_TOKENIZER}"], formats, dtype, chosen.type)
        settings = ReconstructionSettings(
            images=tuple(name_source(path) for path in images),
            split=split,
            limit=limit,
            sizes=tuple(dict.fromkeys(size or [])) or (None,),
            tokenizers=tuple(
                NamedTokenizer(label=label, name=codec.identity.name, sha256=codec.identity.sha256)
                for label, codec in codecs.items()
            ),
            baselines=formats,
            refine_steps=refine_steps,
            feature_network=feature_network,
            distance=distance,
            batch_size=batch_size,
            dtype=kind,
            device=chosen.type,
        )

        def log(text: str) -> None:
            say(text, err=True)

        report = evaluate_reconstruction(settings, codecs, output, sheet=sheet, log=log)
        if as_json:
            typer.echo(json.dumps(report))
        else:
            _print(report, settings)
        if rejected := sum(entry["images"] for entry in report["rejected"]):
            say(f"{rejected:,} images could not be used and are left out of the results", err=True)
            raise typer.Exit(RUNTIME)


app.command()(scenes)
app.command()(stickers)
app.command()(edits)
app.command("val-loss")(val_loss)
app.add_typer(fid.app, name="fid")
for _name, _score in field_scores.SCORES.items():
    app.add_typer(field.make_app(_name, _score), name=_name)


def _formats(baselines: str) -> tuple[str, ...]:
    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.evaluation.reconstruction.baselines import FORMATS

    names = () if baselines == "none" else tuple(dict.fromkeys(name.strip() for name in baselines.split(",")))
    for name in names:
        if name not in FORMATS:
            raise UsageError(unknown("format in --baselines", name, [*FORMATS, "none"]))
    return names


def _load(named: list[str], formats: tuple[str, ...], dtype: str, device: str) -> "dict[str, ImageCodec]":
    """Load tokenizers by label: the text before "=", or else the name itself."""
    from bitvar.codec import ImageCodec
    from bitvar.errors import UsageError

    places: dict[str, str] = {}
    for text in named:
        label, equals, place = text.partition("=")
        if not equals or Path(text).exists():
            label, place = text, text
        if not label or not place or not label.isprintable() or label in (*places, *formats):
            why = "every candidate needs a name of its own, and one that can be printed"
            raise UsageError(f"Can't call a tokenizer {label!r}.", why, "name it: --tokenizer label=folder")
        places[label] = place
    return {label: ImageCodec.from_pretrained(place, dtype=dtype, device=device) for label, place in places.items()}


def _print(report: dict[str, Any], settings: "ReconstructionSettings") -> None:
    """Print two tables: the candidates, and the scales of the tokenizers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=box.MARKDOWN)
        for i, column in enumerate(columns):
            made.add_column(column, justify="left" if i < 2 else "right", no_wrap=True)
        return made

    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 150)
    details = {"sharpness": "sharpness"}
    if any("opacity_error" in result for result in report["results"]):
        details |= {"opacity_error": "opacity error", "outline_error": "at outlines"}
    metrics = ("bits/pixel", "PSNR dB", "SSIM", "block error", "distance", "Frechet")
    candidates = table("candidate", "size", "images", *metrics, *details.values())
    measures = ("bits/pixel", "PSNR dB", *details.values(), "bit entropy", "dead bits", "residual norm")
    scales = table("scales of", "size", "k", *measures)
    for result in report["results"]:
        names, n = (result["candidate"], result["size"]), str(result["images"])
        frechet = "-" if result["frechet"] is None else f"{result['frechet']:.2f}"
        values = [f"{result['bits_per_pixel']:.3f}", f"{result['psnr']:.2f}", f"{result['ssim']:.4f}"]
        block_error = f"{result['block_mean_error']:.2f}"
        values += [block_error, f"{result['distance']:.3f}", frechet]
        candidates.add_row(*names, n, *values, *(_detail(result, name) for name in details))
        for k, scale in enumerate(result.get("scales", [])):
            before, after = scale["residual_norm"]
            shown = [f"{scale['bits_per_pixel']:.3f}", f"{scale['psnr']:.2f}"]
            shown += [*(_detail(scale, name) for name in details), f"{scale['bit_entropy']:.3f}"]
            scales.add_row(*names, str(k + 1), *shown, f"{scale['dead_bits']:.1%}", f"{before:.3f} to {after:.3f}")
    console.print(candidates)
    console.print(scales)
    console.print("block error: mean error of the means over 16 x 16 blocks, on a scale of 255.")
    console.print("sharpness: high-frequency energy, as a share of the originals'.")
    if "opacity_error" in details:
        console.print("opacity error: mean absolute error, 0 to 1; at outlines: within two pixels of one.")
    console.print(f"distance: {report['distance']}. Frechet distance over those images: {report['feature_network']}.")
    for result in report["results"]:
        if result.get("too_large"):
            count, size = result["too_large"], result["size"]
            console.print(f"{result['candidate']} at {size}: {count} images are larger even at its lowest quality.")
    if any(result["images"] < 2000 for result in report["results"]):
        console.print("With fewer than 2,000 images the Frechet distance is too large; compare it at equal N only.")
    for entry in report["rejected"]:
        console.print(f"left out: {entry['images']} images, {entry['reason']} (rejected.jsonl names them)")


def _detail(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return "-" if value is None else f"{value:.3f}"
