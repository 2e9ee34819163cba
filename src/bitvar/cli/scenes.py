"""`bitvar evaluate scenes`: whether models draw what prompts ask for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.evaluation.generation.evaluate import NamedImages, NamedModel
    from bitvar.evaluation.generation.metrics import Measure
    from bitvar.evaluation.generation.scoring import Jury
    from bitvar.pipeline import InfinityPipeline

_DEFAULT = "icons"


def scenes(
    data: Annotated[Path, typer.Argument(metavar="SET", help="The icon set, built by bitvar data icons.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there goes on.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model folder, hub id, or icons, the one in the package; label=... names it."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="label=FOLDER of images made elsewhere, named by prompt: ID.png, or ID-0.png and so on."),
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Judge real images, shuffled prompts and blank prompts beside.")
    ] = True,
    split: Annotated[
        list[str] | None, typer.Option(help="Only these prompts: seen, unseen, paraphrase, held_out_style.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first prompts of each skill in each split.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Images of each prompt.")] = 1,
    guidance: Annotated[float | None, typer.Option(help="Of the models. Default: their own.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the models. Default: their own.")] = None,
    feature_network: Annotated[
        str, typer.Option(help="Of the Frechet distance: mobilenet or inception.")
    ] = "mobilenet",
    batch_size: Annotated[int, typer.Option(min=1, help="Images made at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Of the models: auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure whether models draw what prompts ask for, skill by skill. Writes report.json, sheet.png and images."""
    with exit_codes():
        from bitvar.evaluation.generation.evaluate import ScenesSettings, evaluate_scenes
        from bitvar.evaluation.reconstruction.images import name_source
        from bitvar.icons.dataset.prompts import prompts_digest
        from bitvar.runtime.placement import resolve_device, resolve_dtype
        from bitvar.weights.digests import digest
        from bitvar.weights.hub import EMBEDDED_MODEL

        splits = _splits(split)
        _require_set(data)
        chosen = resolve_device(device)
        found = _find_images(images or [], splits, limit)
        models = _load(model or ([] if images else [f"{_DEFAULT}={EMBEDDED_MODEL}"]), list(found), dtype, chosen.type)
        jury = load_jury(chosen.type)
        measures = load_measures(data, feature_network, chosen.type)
        settings = ScenesSettings(
            prompts=prompts_digest(),
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
            judge=jury.name,
            judge_sha256=jury.sha256,
            measures=tuple(measure.name for measure in measures),
            feature_network=feature_network,
            batch_size=batch_size,
            dtype=str(resolve_dtype(dtype, chosen)).removeprefix("torch."),
            device=chosen.type,
        )

        def tell(text: str) -> None:
            say(text, err=True)

        report = evaluate_scenes(settings, models, jury, output, measures=measures, tell=tell)
        if as_json:
            typer.echo(json.dumps(report))
        else:
            print_report(report)


def load_jury(device: str) -> "Jury":
    """The judge in the package."""
    from bitvar.icons.benchmark.pretrained_judge import package_jury

    return package_jury(device)


def load_measures(data: Path, feature_network: str, device: str) -> "list[Measure]":
    """Everything that is measured beside the verdicts."""
    from bitvar.evaluation.generation.comparisons import AlignmentMeasure, DiversityMeasure, MemorisationMeasure
    from bitvar.evaluation.generation.metrics import FrechetMeasure
    from bitvar.icons.benchmark.alignment import AlignmentScorer
    from bitvar.metrics.distances import perceptual_distance
    from bitvar.metrics.frechet import feature_network as load_network
    from bitvar.text import load_text_encoder
    from bitvar.weights.hub import EMBEDDED_MODEL

    encoder = load_text_encoder(EMBEDDED_MODEL / "text_encoder")
    return [
        FrechetMeasure(load_network(feature_network, device), data, device),
        AlignmentMeasure(AlignmentScorer.load(encoder, device=device), device),
        DiversityMeasure(perceptual_distance("mobilenet", device), device),
        MemorisationMeasure(data),
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

    prompts, found = select_prompts(splits, limit), dict[str, NamedImages]()
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
    """Models by label: what stands before "=", or else the last part of the name."""
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
    """One table, a row for each skill of each split; below it what is not by skill."""
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    labels = [entry["contender"] for entry in report["contenders"]]
    table = Table(box=box.MARKDOWN)
    for column in ("split", "skill"):
        table.add_column(column, no_wrap=True)
    for column in ("prompts", *labels, "judge"):
        table.add_column(column, justify="right", no_wrap=True)
    accuracy = report["judge"]["accuracy"]
    for split, skill in dict.fromkeys((row["split"], row["skill"]) for row in report["results"]):
        found = {row["contender"]: row for row in report["results"] if (row["split"], row["skill"]) == (split, skill)}
        prompts = str(max(row["prompts"] for row in found.values()))
        shares = [_share(found[label]) if label in found else "-" for label in labels]
        table.add_row(
            split.replace("_", " "), skill.replace("_", " "), prompts, *shares, _accuracy(accuracy.get(skill))
        )
    console = Console(markup=False, highlight=False)
    wide = Console(width=10_000)
    console.width = max(console.width, Measurement.get(wide, wide.options, table).maximum)
    console.print(table)
    console.print("Shares of right images in % with 95 % intervals.")
    console.print("judge: how often it is right about real images, in %: of true claims / of false ones.")
    for entry in report["contenders"]:
        for line in _facts(entry):
            console.print(f"{entry['contender']}: {line}", soft_wrap=True)


def _accuracy(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{100 * found['true_claims']:.1f}/{100 * found['false_claims']:.1f}"


def _share(row: dict[str, Any]) -> str:
    return f"{100 * row['share']:.1f} ({100 * row['low']:.0f}-{100 * row['high']:.0f})"


def _facts(entry: dict[str, Any]) -> list[str]:
    lines = []
    if "speed" in entry:
        speed = entry["speed"]
        where = f"{speed['device']}, {speed['dtype']}, batches of {speed['batch_size']}"
        lines.append(f"{speed['seconds_per_image']:.3g} s an image ({where}; median of {speed['batches']} batches)")
    for name, figures in entry["measures"].items():
        shown = (f"{key.replace('_', ' ')} {_plain(value)}" for key, value in figures.items())
        lines.append(f"{name}: {', '.join(shown)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items())
        return f"({', '.join(parts)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
