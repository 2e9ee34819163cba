"""`bitvar evaluate scenes`: the scenes benchmark, and how a benchmark's report is printed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.evaluation.benchmarks.base import Benchmark, EvalPrompt
    from bitvar.evaluation.generation.evaluate import NamedImages, NamedModel
    from bitvar.evaluation.generation.metrics import Metric
    from bitvar.icons.benchmark.pretrained_judge import Judge
    from bitvar.pipeline import InfinityPipeline

_DEFAULT = "icons"


def scenes(
    data: Annotated[Path, typer.Argument(metavar="SET", help="The icon set, built by bitvar data icons.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there resumes.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, hub id, or icons, the one in the package; label=... names it."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="label=FOLDER of images made elsewhere, named by prompt: ID.png, or ID-0.png and so on."),
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Also judge real images, shuffled prompts and blank prompts.")
    ] = True,
    split: Annotated[
        list[str] | None, typer.Option(help="Restrict the prompts to: seen, unseen, paraphrase, held_out_style.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of prompts of each skill in each split.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of images of each prompt.")] = 1,
    guidance: Annotated[float | None, typer.Option(help="Guidance of the models. Default: their own.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature of the models. Default: their own.")] = None,
    feature_network: Annotated[
        str, typer.Option(help="Network of the Frechet distance: mobilenet or inception.")
    ] = "mobilenet",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images generated at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Precision of the models: auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure whether models draw what prompts ask for, skill by skill. Writes report.json, sheet.png and images."""
    with exit_codes():
        from bitvar.evaluation.generation.evaluate import EvaluationSettings, evaluate_generation
        from bitvar.evaluation.reconstruction.images import name_source
        from bitvar.icons.benchmark.scenes import ScenesBenchmark
        from bitvar.runtime.placement import resolve_device, resolve_dtype
        from bitvar.weights.digests import digest
        from bitvar.weights.hub import EMBEDDED_MODEL

        splits = _splits(split)
        _require_set(data)
        chosen = resolve_device(device)
        found = _find_images(images or [], splits, limit)
        models = _load(model or ([] if images else [f"{_DEFAULT}={EMBEDDED_MODEL}"]), list(found), dtype, chosen.type)
        benchmark: Benchmark = ScenesBenchmark(load_judge(chosen.type), data)
        metrics = load_metrics(data, feature_network, chosen.type)
        settings = EvaluationSettings.of(
            benchmark,
            data=name_source(data),
            data_sha256=digest(data / "samples.jsonl"),
            splits=splits,
            limit=limit,
            models=_named(models),
            images=tuple(found.values()),
            references=references,
            seeds=seeds,
            guidance=guidance,
            temperature=temperature,
            metrics=tuple(metric.name for metric in metrics),
            feature_network=feature_network,
            batch_size=batch_size,
            dtype=str(resolve_dtype(dtype, chosen)).removeprefix("torch."),
            device=chosen.type,
        )

        def log(text: str) -> None:
            say(text, err=True)

        report = evaluate_generation(settings, benchmark, models, output, metrics=metrics, log=log)
        if as_json:
            typer.echo(json.dumps(report))
        else:
            print_report(report)


def load_judge(device: str) -> "Judge":
    """Load the judge in the package."""
    from bitvar.icons.benchmark import pretrained_judge

    return pretrained_judge.load_judge(device)


def load_metrics(data: Path, feature_network: str, device: str) -> "list[Metric]":
    """Load every metric that is measured beside the scores."""
    from bitvar.evaluation.generation.diversity import DiversityMetric
    from bitvar.evaluation.generation.frechet import FrechetMetric
    from bitvar.evaluation.generation.memorisation import MemorisationMetric
    from bitvar.icons.benchmark.alignment import AlignmentMetric, AlignmentScorer
    from bitvar.icons.benchmark.scenes import HELD_OUT
    from bitvar.metrics.distances import perceptual_distance
    from bitvar.metrics.frechet import feature_network as load_network
    from bitvar.text import load_text_encoder
    from bitvar.weights.hub import EMBEDDED_MODEL

    encoder = load_text_encoder(EMBEDDED_MODEL / "text_encoder")
    return [
        FrechetMetric(load_network(feature_network, device), data, device),
        AlignmentMetric(AlignmentScorer.load(encoder, device=device), device),
        DiversityMetric(perceptual_distance("mobilenet", device), device),
        MemorisationMetric(data, held_out=HELD_OUT),
    ]


def _splits(given: list[str] | None) -> tuple[str, ...]:
    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.icons.dataset.prompts import SPLITS

    for name in given or []:
        if name not in SPLITS:
            raise UsageError(unknown("split", name, SPLITS))
    return tuple(name for name in SPLITS if not given or name in given)


def _require_set(data: Path) -> None:
    from bitvar.errors import UsageError

    if not (data / "samples.jsonl").is_file():
        why = "it has no samples.jsonl" if data.is_dir() else "there is no such folder"
        raise UsageError(f"{data} is no icon set.", why, f"build it: bitvar data icons {data} --still")


def _find_images(given: list[str], splits: tuple[str, ...], limit: int | None) -> "dict[str, NamedImages]":
    from bitvar.errors import UsageError
    from bitvar.evaluation.generation.evaluate import NamedImages, require_label, select_prompts
    from bitvar.evaluation.generation.images import find_images, images_digest
    from bitvar.evaluation.reconstruction.images import name_source
    from bitvar.icons.benchmark.scenes import eval_prompts

    prompts: list[EvalPrompt] = select_prompts(eval_prompts(), splits=splits, limit=limit)
    found: dict[str, NamedImages] = {}
    for text in given:
        label, equals, place = text.partition("=")
        if not equals or not place:
            why = "it has no '=' with a folder after it"
            raise UsageError(f"Can't read --images {text!r}.", why, "write --images label=FOLDER")
        require_label(label, list(found))
        digest = images_digest(find_images(Path(place), prompts))
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
