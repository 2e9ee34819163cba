"""`bitvar bench variants`: optimizations side by side, with their distance from the plain model and from the floor."""

import json
from typing import Annotated

import typer

from bitvar.cli.exit_codes import exit_codes


def variants(
    variant: Annotated[
        list[str],
        typer.Option(
            help="Names joined by +: optimizations, unguided-N (no guidance on the last N scales), or eager. Repeat it "
            "for several.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Model folder or hub id. Default: the embedded model.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Measure a preset with random weights and text instead, for example 2B.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="Tokenizer preset used with --preset.")] = "d32",
    pixels: Annotated[int, typer.Option(min=16, help="Side of the image.")] = 1024,
    runs: Annotated[int, typer.Option(min=1, help="Number of timed images, after a first one.")] = 5,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Time variants of drawing one image, and compare each with the plain model. Print a JSON line for each.

    On a CPU, optimizations for GPUs run with stand-ins: that tests them and says nothing about their speed.
    """
    with exit_codes():
        import torch

        from bitvar.pipeline import InfinityPipeline
        from bitvar.profiling.generation import random_pipeline
        from bitvar.profiling.variants import Variant, measure_variants, randomize

        chosen = [Variant.parse(name) for name in variant]
        if preset is None:
            pipeline = InfinityPipeline.from_pretrained(model, dtype=dtype, device=device, fast="off")
        else:
            pipeline = random_pipeline(preset, tokenizer, dtype=dtype, device=device)
            randomize(pipeline.transformer)
        on_gpu = pipeline.device.type == "cuda"
        described = {
            "model": model or preset or "embedded",
            "pixels": pixels,
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(pipeline.device) if on_gpu else pipeline.device.type,
            "torch": torch.__version__,
            "runs": runs,
        }
        for row in measure_variants(pipeline, chosen, pixels=pixels, runs=runs):
            typer.echo(json.dumps(described | row))
