"""What the commands of benchmarks share: their options, their candidates, and how a report is printed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say

if TYPE_CHECKING:
    from bitvar.evaluation.benchmarks.base import Benchmark, EvalPrompt
    from bitvar.evaluation.generation.evaluate import NamedImages, NamedModel
    from bitvar.evaluation.generation.metrics import Metric
    from bitvar.pipeline import InfinityPipeline

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there resumes.")]
Models = Annotated[
    list[str] | None, typer.Option(help="Model folder, hub id, or icons, the one in the package; label=... names it.")
]
Images = Annotated[
    list[str] | None,
    typer.Option(help="label=FOLDER of images made elsewhere, named by prompt: ID.png, or ID-0.png and so on."),
]
References = Annotated[bool, typer.Option(help="Also judge real images, shuffled prompts and blank prompts.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of prompts of each skill in each split.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of images of each prompt.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance of the models. Default: their own.")]
Temperature = Annotated[float | None, typer.Option(help="Temperature of the models. Default: their own.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Number of images generated at once.")]
Dtype = Annotated[str, typer.Option(help="Precision of the models: auto, fp32, bf16 or fp16.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]

_DEFAULT = "icons"


@dataclass(frozen=True)
class Candidates:
    """Models and images of an evaluation, by label."""

    models: "dict[str, InfinityPipeline]"
    images: "dict[str, NamedImages]"


@dataclass(frozen=True)
class Choices:
    """The options that every benchmark has."""

    splits: tuple[str, ...]
    limit: int | None
    references: bool
    seeds: int
    guidance: float | None
    temperature: float | None
    batch_size: int
    dtype: str
    device: str


def evaluate_benchmark(
    benchmark: "Benchmark",
    candidates: Candidates,
    choices: Choices,
    output: Path,
    *,
    data: Path,
    metrics: "Sequence[Metric]",
    feature_network: str | None,
    as_json: bool,
) -> None:
    """Evaluate candidates on a benchmark and print the report.

    Args:
        benchmark: Benchmark.
        candidates: Models and images.
        choices: Options.
        output: Folder of the evaluation.
        data: Set of the real images.
        metrics: Metrics beside the scores.
        feature_network: Network of the Frechet distance; None if it isn't measured.
        as_json: Whether to print JSON.
    """
    from bitvar.evaluation.generation.evaluate import EvaluationSettings, evaluate_generation
    from bitvar.evaluation.reconstruction.images import name_source
    from bitvar.runtime.placement import resolve_device, resolve_dtype
    from bitvar.weights.digests import digest

    chosen = resolve_device(choices.device)
    settings = EvaluationSettings.of(
        benchmark,
        data=name_source(data),
        data_sha256=digest(data / "samples.jsonl"),
        splits=choices.splits,
        limit=choices.limit,
        models=_named(candidates.models),
        images=tuple(candidates.images.values()),
        references=choices.references,
        seeds=choices.seeds,
        guidance=choices.guidance,
        temperature=choices.temperature,
        metrics=tuple(metric.name for metric in metrics),
        feature_network=feature_network,
        batch_size=choices.batch_size,
        dtype=str(resolve_dtype(choices.dtype, chosen)).removeprefix("torch."),
        device=chosen.type,
    )

    def log(text: str) -> None:
        say(text, err=True)

    report = evaluate_generation(settings, benchmark, candidates.models, output, metrics=metrics, log=log)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_report(report)


def choose_splits(given: list[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the splits given, in their usual order; all without any."""
    from bitvar.config import unknown
    from bitvar.errors import UsageError

    for name in given or []:
        if name not in known:
            raise UsageError(unknown("split", name, known))
    return tuple(name for name in known if not given or name in given)


def find_candidates(
    models: list[str] | None, images: list[str] | None, prompts: "Sequence[EvalPrompt]", choices: Choices
) -> Candidates:
    """Find the images and load the models; the model in the package if neither is given."""
    from bitvar.runtime.placement import resolve_device
    from bitvar.weights.hub import EMBEDDED_MODEL

    found = _find_images(images or [], prompts, choices)
    wanted = models or ([] if images else [f"{_DEFAULT}={EMBEDDED_MODEL}"])
    return Candidates(_load(wanted, list(found), choices.dtype, resolve_device(choices.device).type), found)


def _find_images(given: list[str], prompts: "Sequence[EvalPrompt]", choices: Choices) -> "dict[str, NamedImages]":
    from bitvar.errors import UsageError
    from bitvar.evaluation.generation.evaluate import NamedImages, require_label, select_prompts
    from bitvar.evaluation.generation.images import find_images, images_digest
    from bitvar.evaluation.reconstruction.images import name_source

    chosen = select_prompts(prompts, splits=choices.splits, limit=choices.limit)
    found: dict[str, NamedImages] = {}
    for text in given:
        label, equals, place = text.partition("=")
        if not equals or not place:
            why = "it has no '=' with a folder after it"
            raise UsageError(f"Can't read --images {text!r}.", why, "write --images label=FOLDER")
        require_label(label, list(found))
        digest = images_digest(find_images(Path(place), chosen))
        found[label] = NamedImages(label=label, folder=name_source(Path(place)), sha256=digest)
    return found


def _load(given: list[str], labels: list[str], dtype: str, device: str) -> "dict[str, InfinityPipeline]":
    """Load models by label: the text before "=", or else the last part of the name."""
    from bitvar.evaluation.generation.evaluate import require_label
    from bitvar.pipeline import InfinityPipeline
    from bitvar.weights.hub import resolve_model

    places: dict[str, str] = {}
    for text in given:
        label, equals, place = text.partition("=")
        if not equals or Path(text).exists():
            label, place = Path(text).name, text
        require_label(label, [*labels, *places])
        places[label] = place
    return {
        label: InfinityPipeline.from_pretrained(resolve_model(place), dtype=dtype, device=device)
        for label, place in places.items()
    }


def _named(models: "dict[str, InfinityPipeline]") -> "tuple[NamedModel, ...]":
    from bitvar.evaluation.generation.evaluate import NamedModel

    return tuple(
        NamedModel(label=label, name=pipeline.model_name, sha256=pipeline.components.digest)
        for label, pipeline in models.items()
    )


def print_report(report: dict[str, Any]) -> None:
    """Print a table with a row for each skill of each split, and below it the results that are not by skill."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    labels = [entry["candidate"] for entry in report["candidates"]]
    accuracy = report["judge"]["accuracy"]
    table = Table(box=box.MARKDOWN)
    for column in ("split", "skill"):
        table.add_column(column, no_wrap=True)
    for column in ("prompts", *labels, *(["judge"] if accuracy else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for split, skill in dict.fromkeys((row["split"], row["skill"]) for row in report["results"]):
        found = {row["candidate"]: row for row in report["results"] if (row["split"], row["skill"]) == (split, skill)}
        prompts = str(max(row["prompts"] for row in found.values()))
        scores = [_score(found[label], report["unit"]) if label in found else "-" for label in labels]
        judge = [_accuracy(accuracy.get(skill))] if accuracy else []
        table.add_row(split.replace("_", " "), skill.replace("_", " "), prompts, *scores, *judge)
    console = Console(markup=False, highlight=False)
    wide = Console(width=10_000)
    console.width = max(console.width, Measurement.get(wide, wide.options, table).maximum)
    console.print(table)
    what = "Shares of correct images in %" if report["unit"] == "%" else "Mean scores"
    console.print(f"{what} with 95 % intervals.")
    if accuracy:
        console.print("judge: its true positive and true negative rates on real images, in %.")
    for entry in report["candidates"]:
        for line in _facts(entry):
            console.print(f"{entry['candidate']}: {line}", soft_wrap=True)


def _accuracy(accuracy: dict[str, float] | None) -> str:
    if accuracy is None:
        return "-"
    return f"{100 * accuracy['true_positive_rate']:.1f}/{100 * accuracy['true_negative_rate']:.1f}"


def _score(row: dict[str, Any], unit: str) -> str:
    score, limits = row["score"], [limit for limit in (row["low"], row["high"]) if limit is not None]
    if unit == "%":
        return f"{100 * score:.1f} ({'-'.join(f'{100 * limit:.0f}' for limit in limits)})"
    return f"{score:.4g}" + (f" ({limits[0]:.4g} to {limits[1]:.4g})" if limits else "")


def _facts(entry: dict[str, Any]) -> list[str]:
    lines = []
    if "speed" in entry:
        speed = entry["speed"]
        where = f"{speed['device']}, {speed['dtype']}, batches of {speed['batch_size']}"
        lines.append(f"{speed['seconds_per_image']:.3g} s an image ({where}; median of {speed['batches']} batches)")
    for name, values in entry["metrics"].items():
        shown = (f"{key.replace('_', ' ')} {_plain(value)}" for key, value in values.items())
        lines.append(f"{name}: {', '.join(shown)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        inner = (f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items())
        return f"({', '.join(inner)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
