"""`bitvar evaluate fid`: draw the captions of a set, compute a Frechet distance, keep the statistics of real images."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bitvar.cli import field
from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes

app = typer.Typer(
    help="FID: the Frechet distance between generated and real images.", no_args_is_help=True, rich_markup_mode=None
)

FeatureNetwork = Annotated[
    str, typer.Option(help="Network of the features: inception, that of published FIDs, or mobilenet, in the package.")
]
Split = Annotated[str | None, typer.Option(help="Restrict a captioned set or an index to this split.")]


@app.command("generate")
def generate(
    data: Annotated[Path, typer.Argument(metavar="SET", help="Captioned set or index; its captions are drawn.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; the same command there resumes.")],
    model: Annotated[str, typer.Option(help="Model folder, hub id, or icons, the one in the package.")] = "icons",
    split: Split = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of captions. Default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Added to the seed that each caption has.")] = 0,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels. Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance. Default: the model's own.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature. Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Top-p. Default: the model's own.")] = None,
    cut_prompts: Annotated[
        bool, typer.Option("--cut-prompts", help="Cut captions that are longer than the model reads.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images at once.")] = 8,
    dtype: Annotated[str, typer.Option(help="Precision of the model: auto, fp32, bf16 or fp16.")] = "auto",
    device: field.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Draw an image of each sample's first caption. Resumes; torchrun shares the work."""
    with exit_codes():
        from bitvar.evaluation.benchmarks.fid import FidLayout

        field.draw(
            FidLayout(split), data, output, model=model, rewrites=None, variants=None, limit=limit, count=None,
            seed=seed, options=field.sampling_options(size, guidance, temperature, top_p), cut_prompts=cut_prompts,
            batch_size=batch_size, dtype=dtype, device=device, as_json=as_json,
        )  # fmt: skip


@app.command("score")
def score(
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", help="Folder that generate wrote, folder of images, or statistics (.npz)."),
    ],
    reference: Annotated[Path, typer.Option(help="Real images: folder, captioned set, index, or statistics (.npz).")],
    split: Split = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of images of either side after which to stop.")
    ] = None,
    feature_network: FeatureNetwork = "inception",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file of the report.")] = None,
    device: field.Device = "auto",
    as_json: field.AsJson = False,
) -> None:
    """Compute the distance. The report names the network and both numbers of images.

    --split belongs to the reference, and --limit to both sides; statistics take neither.
    """
    with exit_codes():
        from bitvar.evaluation.benchmarks.fid import STATISTICS, compute_fid, measure_images, write_fid
        from bitvar.evaluation.benchmarks.generating import FieldSettings
        from bitvar.evaluation.run_folder import SETTINGS
        from bitvar.metrics.frechet import feature_network as load_network
        from bitvar.runtime.placement import resolve_device

        network = load_network(feature_network, resolve_device(device))

        def log(text: str) -> None:
            say(text, err=True)

        own = FieldSettings.load(images / SETTINGS) if (images / SETTINGS).is_file() else None
        place = images if own is None else images / own.variants[0] / "images"
        capped = None if place.suffix == STATISTICS else limit
        generated = measure_images(place, network, limit=capped, log=log)
        real = measure_images(reference, network, split=split, limit=limit, log=log)
        report: dict[str, Any] = {"format": 1, "benchmark": "FID (arXiv 1706.08500)"}
        report |= compute_fid(generated, real, network)
        report["generation"] = None if own is None else own.model_dump(mode="json")
        if output is not None:
            write_fid(report, output)
        if as_json:
            typer.echo(json.dumps(report))
        else:
            _print(report)


@app.command("statistics")
def statistics(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, captioned set or index.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .npz.")],
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images after which to stop.")] = None,
    feature_network: FeatureNetwork = "inception",
    device: field.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Keep mean and covariance of real images' features, as pytorch-fid reads them."""
    with exit_codes():
        from bitvar.evaluation.benchmarks.fid import measure_images
        from bitvar.metrics.frechet import feature_network as load_network
        from bitvar.runtime.placement import resolve_device

        network = load_network(feature_network, resolve_device(device))

        def log(text: str) -> None:
            say(text, err=True)

        found = measure_images(images, network, split=split, limit=limit, log=log)
        found.save(output)
        if as_json:
            values = {
                "file": str(output),
                "images": found.images,
                "feature_network": found.network,
                "sha256": found.sha256,
            }
            typer.echo(json.dumps(values))
        else:
            say(f"{output}: {found.images:,} images, {found.network}")


def _print(report: dict[str, Any]) -> None:
    counts = [
        "unknown" if report[side]["count"] is None else f"{report[side]['count']:,}" for side in ("images", "reference")
    ]
    say(f"Frechet distance: {report['fid']:.4f}")
    say(f"{counts[0]} generated images, {counts[1]} real ones; features of {report['feature_network']}")
    if report["few_images"]:
        say("With fewer than 2,048 images the distance is too large; compare it at equal N only.")
