"""`bitvar evaluate stickers`: the stickers benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli import benchmark as shared
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.evaluation.generation.metrics import Metric
    from bitvar.icons.stickers.benchmark.benchmark import Judge


def stickers(
    real: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Real images of the prompts: scripts/icons/sticker_references.py.")
    ],
    output: shared.Output,
    model: shared.Models = None,
    images: shared.Images = None,
    references: shared.References = True,
    split: Annotated[
        list[str] | None, typer.Option(help="Restrict the prompts to: seen, unseen, paraphrase, open.")
    ] = None,
    limit: shared.Limit = None,
    seeds: shared.Seeds = 1,
    guidance: shared.Guidance = None,
    temperature: shared.Temperature = None,
    batch_size: shared.BatchSize = 8,
    dtype: shared.Dtype = "auto",
    device: shared.Device = "auto",
    as_json: shared.AsJson = False,
) -> None:
    """Measure whether models draw stickers of what prompts ask for, atom by atom. Writes what scenes writes."""
    with exit_codes():
        from bitvar.icons.stickers.benchmark.benchmark import StickersBenchmark, eval_prompts
        from bitvar.icons.stickers.benchmark.prompts import SPLITS
        from bitvar.icons.stickers.benchmark.references import require_references
        from bitvar.runtime.placement import resolve_device

        splits = shared.choose_splits(split, SPLITS)
        require_references(real)
        kind = resolve_device(device).type
        choices = shared.Choices(splits, limit, references, seeds, guidance, temperature, batch_size, dtype, kind)
        candidates = shared.find_candidates(model, images, eval_prompts(), choices)
        shared.evaluate_benchmark(
            StickersBenchmark(load_judge(kind), real),
            candidates,
            choices,
            output,
            data=real,
            metrics=load_metrics(kind),
            feature_network=None,
            as_json=as_json,
        )


def load_judge(device: str) -> "Judge":
    """Load the judge in the package."""
    from bitvar.icons.stickers.benchmark import benchmark

    return benchmark.load_judge(device)


def load_metrics(device: str) -> "list[Metric]":
    """Load every metric that is measured beside the scores."""
    from bitvar.evaluation.generation.diversity import DiversityMetric
    from bitvar.metrics.distances import perceptual_distance

    return [DiversityMetric(perceptual_distance("mobilenet", device), device)]
