"""`bitvar evaluate scenes`: the scenes benchmark of the icon set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli import benchmark as shared
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.evaluation.generation.metrics import Metric
    from bitvar.icons.benchmark.pretrained_judge import Judge


def scenes(
    data: Annotated[Path, typer.Argument(metavar="SET", help="The icon set, built by bitvar data icons.")],
    output: shared.Output,
    model: shared.Models = None,
    images: shared.Images = None,
    references: shared.References = True,
    split: Annotated[
        list[str] | None, typer.Option(help="Restrict the prompts to: seen, unseen, paraphrase, held_out_style.")
    ] = None,
    limit: shared.Limit = None,
    seeds: shared.Seeds = 1,
    guidance: shared.Guidance = None,
    temperature: shared.Temperature = None,
    feature_network: Annotated[
        str, typer.Option(help="Network of the Frechet distance: mobilenet or inception.")
    ] = "mobilenet",
    batch_size: shared.BatchSize = 8,
    dtype: shared.Dtype = "auto",
    device: shared.Device = "auto",
    as_json: shared.AsJson = False,
) -> None:
    """Measure whether models draw what prompts ask for, skill by skill. Writes report.json, sheet.png and images."""
    with exit_codes():
        from bitvar.icons.benchmark.scenes import ScenesBenchmark, eval_prompts
        from bitvar.icons.dataset.prompts import SPLITS
        from bitvar.runtime.placement import resolve_device

        splits = shared.choose_splits(split, SPLITS)
        _require_set(data)
        kind = resolve_device(device).type
        choices = shared.Choices(splits, limit, references, seeds, guidance, temperature, batch_size, dtype, kind)
        candidates = shared.find_candidates(model, images, eval_prompts(), choices)
        shared.evaluate_benchmark(
            ScenesBenchmark(load_judge(kind), data),
            candidates,
            choices,
            output,
            data=data,
            metrics=load_metrics(data, feature_network, kind),
            feature_network=feature_network,
            as_json=as_json,
        )


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


def _require_set(data: Path) -> None:
    from bitvar.errors import UsageError

    if not (data / "samples.jsonl").is_file():
        why = "it has no samples.jsonl" if data.is_dir() else "there is no such folder"
        raise UsageError(f"{data} is no icon set.", why, f"build it: bitvar data icons {data} --still")
