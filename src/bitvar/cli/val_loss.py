"""`bitvar evaluate val-loss`: the official validation loss and bit accuracy, scale by scale."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes


def val_loss(
    data: Annotated[Path, typer.Argument(metavar="SET", help="Captioned set (folder or table) or index.")],
    model: Annotated[str, typer.Option(help="Model folder, hub id, or icons, the one in the package.")] = "icons",
    split: Annotated[str, typer.Option(help="Split of the set, or all.")] = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of samples. Default: all.")] = None,
    flip_strength: Annotated[
        float,
        typer.Option(min=0, max=1, help="Self-correction's largest share of flipped bits; 0: clean inputs alone."),
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the flips.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT, for its number of pixels; each image keeps its ratio. Default: the largest."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file of the report.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of samples at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Precision of the model: auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure the official validation loss and bit accuracy, scale by scale. It gives the same numbers every time."""
    with exit_codes():
        from bitvar.cli.sizes import parse_size
        from bitvar.evaluation.benchmarks.val_loss import ValLossSettings, measure_val_loss
        from bitvar.files import write_text
        from bitvar.pipeline import InfinityPipeline
        from bitvar.weights.hub import resolve_model

        wanted = None if size is None else parse_size(size)
        pixels = None if wanted is None else round(wanted.width * wanted.height)
        pipeline = InfinityPipeline.from_pretrained(resolve_model(model), dtype=dtype, device=device)
        settings = ValLossSettings(None if split == "all" else split, limit, flip_strength, seed, pixels, batch_size)

        def log(text: str) -> None:
            say(text, err=True)

        report = measure_val_loss(pipeline, data, settings, log=log)
        if output is not None:
            write_text(output, json.dumps(report, indent=1) + "\n")
        if as_json:
            typer.echo(json.dumps(report))
        else:
            _print(report)


def _print(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN)
    names = list(report["results"])
    columns = [text for name in names for text in (f"loss, {name}", "bits right", "tokens right")]
    for column in ("scale", *columns):
        table.add_column(column.replace("_", "-"), justify="right", no_wrap=True)
    for k in range(len(report["results"][names[0]]["scales"])):
        scales = [report["results"][name]["scales"][k] for name in names]
        cells = [text for scale in scales for text in (
            f"{scale['loss']:.4f}", f"{scale['bit_accuracy']:.2%}", f"{scale['token_accuracy']:.2%}")]  # fmt: skip
        table.add_row(str(k + 1), *cells)
    whole = [report["results"][name] for name in names]
    table.add_row(
        "all", *(text for entry in whole for text in (f"{entry['loss']:.4f}", f"{entry['bit_accuracy']:.2%}", ""))
    )
    table.add_row("reweighted", *(text for entry in whole for text in (f"{entry['reweighted_loss']:.4f}", "", "")))
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    data, settings = report["data"], report["settings"]
    console.print(
        f"nats a bit; {data['images']:,} images of {', '.join(settings['sizes'])}, split {data['split'] or 'all'}",
        soft_wrap=True,
    )
    if "self_correction" in names:
        console.print(
            f"self-correction: up to {settings['flip_strength']:.0%} of the bits flipped, seed {settings['seed']}",
            soft_wrap=True,
        )
