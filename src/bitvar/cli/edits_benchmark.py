"""`bitvar evaluate edits`: ways to edit, side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes


def edits(
    data: Annotated[Path, typer.Argument(metavar="SET", help="An icon set: bitvar data icons SET.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for report.json and sheet.png.")],
    model: Annotated[str | None, typer.Option(help="Name, folder or hub id. Default: icons.")] = None,
    tasks: Annotated[
        int, typer.Option(min=1, max=250, help="Number of scenes for each of the four kinds of edits.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of scenes and of the edits.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare ways to edit: take an object out, put one in, change its colour, or replace it."""
    with exit_codes():
        from bitvar.cli.image_output import check_writable
        from bitvar.errors import UsageError
        from bitvar.files import atomic_path
        from bitvar.icons.benchmark.pretrained_judge import load_judge
        from bitvar.icons.edits.comparison import compare_edits, describe
        from bitvar.icons.edits.tasks import read_tasks
        from bitvar.metrics.distances import perceptual_distance
        from bitvar.pipeline import InfinityPipeline
        from bitvar.runtime.placement import resolve_device

        if output.exists():
            raise UsageError(f"{output} exists.", "an evaluation never overwrites another", "name a new folder with -o")
        check_writable(output, output)
        chosen = read_tasks(data, per_kind=tasks, seed=seed)
        kind = resolve_device(device).type
        pipeline = InfinityPipeline.from_pretrained(model, dtype=dtype, device=device)
        distance = perceptual_distance("mobilenet", "cpu")
        comparison = compare_edits(
            pipeline, chosen, load_judge("cpu"), distance, seed=seed, log=lambda line: say(line, err=True)
        )
        report = {
            "model": pipeline.model_name, "set": data.name, "tasks_per_kind": tasks, "seed": seed,
            "dtype": str(pipeline.dtype).removeprefix("torch."), "device": kind, **comparison.to_json(),
        }  # fmt: skip
        output.mkdir(parents=True)
        with atomic_path(output / "report.json") as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        with atomic_path(output / "sheet.png") as path:
            comparison.sheet.save(path, format="PNG")
        if as_json:
            typer.echo(json.dumps(report))
            return
        for line in describe(comparison):
            say(line)
        say(f"wrote {output}/report.json and sheet.png")
