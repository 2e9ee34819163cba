"""`bitvar evaluate geneval` and its siblings: a group of two commands for each published benchmark.

`generate` is here, the same for all. `cli/field_scores.py` has the commands that score.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.ranks import Rank

if TYPE_CHECKING:
    from bitvar.evaluation.benchmarks.layout import Layout
    from bitvar.pipeline import InfinityPipeline

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder that generate wrote, or one in the benchmark's layout.")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder of the scores. Default: beside the images.")
]
Prompts = Annotated[
    Path | None, typer.Option(help="The benchmark's prompts. Default: those in the package, if it has any.")
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

SUMMARIES = {
    "geneval": "GenEval: six skills, judged by an object detector and a colour classifier.",
    "geneval2": "GenEval 2: questions about each image, scored softly (Soft-TIFA).",
    "dpg": "DPG-Bench: long prompts, and questions that depend on each other.",
    "hpsv2": "HPSv2.1: human preference over four styles.",
    "hpsv3": "HPSv3: human preference over twelve categories.",
    "imagereward": "ImageReward: the mean reward over 100 prompts.",
}


def make_app(name: str, score: Callable[..., None]) -> typer.Typer:
    """Make the group of a benchmark's two commands.

    Args:
        name: Name of the benchmark.
        score: Its second command.
    """
    app = typer.Typer(help=SUMMARIES[name], no_args_is_help=True, rich_markup_mode=None)
    app.command("generate")(_generate_command(name))
    app.command("score")(score)
    return app


def layout_of(name: str, images_per_prompt: int | None = None) -> "Layout":
    """Return the layout of a benchmark."""
    from bitvar.evaluation.benchmarks.dpg import DpgLayout
    from bitvar.evaluation.benchmarks.geneval import GenEvalLayout
    from bitvar.evaluation.benchmarks.geneval2 import GenEval2Layout
    from bitvar.evaluation.benchmarks.hpsv2 import HpsV2Layout
    from bitvar.evaluation.benchmarks.hpsv3 import HpsV3Layout
    from bitvar.evaluation.benchmarks.imagereward import ImageRewardLayout

    if name == "dpg":
        return DpgLayout() if images_per_prompt is None else DpgLayout(images_per_prompt)
    kinds = (GenEvalLayout, GenEval2Layout, HpsV2Layout, HpsV3Layout, ImageRewardLayout)
    return next(kind() for kind in kinds if kind.name == name)


def _generate_command(name: str) -> Callable[..., None]:
    def generate(
        output: Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there resumes.")],
        model: Annotated[str, typer.Option(help="Model folder, hub id, or icons, the one in the package.")] = "icons",
        prompts: Prompts = None,
        rewrites: Annotated[
            Path | None, typer.Option(help="Rewritten prompts: draw the raw ones and these, each into a folder.")
        ] = None,
        variant: Annotated[
            list[str] | None, typer.Option(help="Restrict what is drawn to raw or rewritten prompts.")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts of each skill. Default: all.")] = None,
        images_per_prompt: Annotated[
            int | None,
            typer.Option(min=1, help="Images of a prompt. Default: as many as the benchmark's authors draw."),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Added to the seed that each prompt has.")] = 0,
        size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels. Default: the model's own.")] = None,
        guidance: Annotated[float | None, typer.Option(help="Guidance. Default: the model's own.")] = None,
        temperature: Annotated[float | None, typer.Option(help="Temperature. Default: the model's own.")] = None,
        top_p: Annotated[float | None, typer.Option(help="Top-p. Default: the model's own.")] = None,
        cut_prompts: Annotated[
            bool, typer.Option("--cut-prompts", help="Cut prompts that are longer than the model reads.")
        ] = False,
        batch_size: Annotated[int, typer.Option(min=1, help="Number of images at once.")] = 8,
        dtype: Annotated[str, typer.Option(help="Precision of the model: auto, fp32, bf16 or fp16.")] = "auto",
        device: Device = "auto",
        as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
    ) -> None:
        """Draw the benchmark's prompts into the folder that its own scorer reads. Resumes; torchrun shares the work."""
        with exit_codes():
            layout = layout_of(name, images_per_prompt)
            options = sampling_options(size, guidance, temperature, top_p)
            draw(
                layout, prompts, output, model=model, rewrites=rewrites, variants=variant, limit=limit,
                count=images_per_prompt, seed=seed, options=options, cut_prompts=cut_prompts, batch_size=batch_size,
                dtype=dtype, device=device, as_json=as_json,
            )  # fmt: skip

    return generate


def sampling_options(
    size: str | None, guidance: float | None, temperature: float | None, top_p: float | None
) -> dict[str, Any]:
    """Collect the settings of requests that are given."""
    from bitvar.cli.sizes import parse_size

    options: dict[str, Any] = {"guidance_scale": guidance, "temperature": temperature, "top_p": top_p}
    if size is not None:
        wanted = parse_size(size)
        options["width"], options["height"] = round(wanted.width), round(wanted.height)
    return {name: value for name, value in options.items() if value is not None}


def draw(
    layout: "Layout",
    prompts: Path | None,
    output: Path,
    *,
    model: str,
    rewrites: Path | None,
    variants: list[str] | None,
    limit: int | None,
    count: int | None,
    seed: int,
    options: dict[str, Any],
    cut_prompts: bool,
    batch_size: int,
    dtype: str,
    device: str,
    as_json: bool,
) -> None:
    """Run the first stage of a benchmark and say where the images are."""
    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.evaluation.benchmarks.generating import VARIANTS, GenerateChoices, generate_benchmark
    from bitvar.rewriting import read_rewrites

    for name in variants or []:
        if name not in VARIANTS:
            raise UsageError(unknown("variant", name, VARIANTS))
    given = layout.read_prompts(prompts)
    rewritten = None if rewrites is None else {text: one.prompt for text, one in read_rewrites(rewrites).items()}
    rank = Rank.read()
    pipeline = _load(model, dtype, rank.device(device))

    def log(text: str) -> None:
        if rank.index == 0:
            say(text, err=True)

    choices = GenerateChoices(
        limit, count, seed, options, rewritten, tuple(variants) if variants else None, cut_prompts, batch_size
    )
    settings = generate_benchmark(pipeline, layout, given, output, choices, log=log)
    if rank.index > 0:
        return
    if as_json:
        typer.echo(json.dumps(settings.model_dump(mode="json")))
    else:
        rest = " --reference SET" if layout.name == "fid" else ""
        say(f"{output}: complete. Score it: bitvar evaluate {layout.name} score {output}{rest}")


def _load(model: str, dtype: str, device: str) -> "InfinityPipeline":
    from bitvar.pipeline import InfinityPipeline
    from bitvar.weights.hub import resolve_model

    return InfinityPipeline.from_pretrained(resolve_model(model), dtype=dtype, device=device)


def print_report(report: dict[str, Any]) -> None:
    """Print a table with a row for each skill and a column for each variant, and what the numbers depend on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN)
    table.add_column(report["benchmark"], no_wrap=True)
    for name in report["variants"]:
        table.add_column(name, justify="right", no_wrap=True)
    columns = [{row["skill"]: row for row in values["results"]} for values in report["variants"].values()]
    for skill in dict.fromkeys(skill for column in columns for skill in column):
        cells = [_cell(column[skill], report["unit"]) if skill in column else "-" for column in columns]
        table.add_row(skill.replace("_", " "), *cells)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, 120)
    console.print(table)
    console.print(f"scorer: {report['scorer']['name']}", soft_wrap=True)
    for name, values in report["variants"].items():
        of = "" if values["complete"] else f" of {report['prompts']['count']}: not comparable with whole runs"
        console.print(f"{name}: {values['images']} images of {values['prompts']} prompts{of}", soft_wrap=True)


def _cell(row: dict[str, Any], unit: str) -> str:
    scale, digits = (100, 2) if unit == "%" else (1, 4)
    limits = [row[name] for name in ("low", "high") if row[name] is not None]
    inner = f" ({' to '.join(f'{scale * limit:.{digits}f}' for limit in limits)})" if limits else ""
    return f"{scale * row['score']:.{digits}f}{inner}"
