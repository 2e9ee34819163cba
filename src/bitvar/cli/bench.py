"""`bitvar bench`: measure speed and memory. Benchmarks are commands, never assertions."""

import json
import time
from typing import Annotated, Any

import typer

from bitvar.cli import bench_serve, bench_training, bench_variants
from bitvar.cli.exit_codes import exit_codes

app = typer.Typer(help="Benchmarks.", no_args_is_help=True, rich_markup_mode=None)


for verb in (
    bench_training.train,
    bench_training.attention,
    bench_training.loader,
    bench_training.index,
    bench_training.save,
    bench_serve.serve,
    bench_variants.variants,
):
    app.command()(verb)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def generate(
    model: Annotated[str | None, typer.Option(help="Model folder or hub id. Default: the embedded model.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Time a preset with random weights and text instead, for example 125M.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="Tokenizer preset used with --preset.")] = "d32",
    num_images: Annotated[int, typer.Option("--num-images", "-n", min=1, help="Images per call.")] = 1,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale; 1 halves the compute. Default: the model's own, or 4 with --preset."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Number of timed calls, after one warm-up call.")] = 5,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch_invariant: Annotated[
        bool, typer.Option(help="Compute each image separately, as generation does, or the whole batch at once.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time loading, text encoding, every scale and decoding. Print median seconds and peak memory."""
    with exit_codes():
        began = time.perf_counter()
        import torch

        from bitvar.pipeline import InfinityPipeline
        from bitvar.profiling.generation import measure_generation, random_pipeline

        imported = time.perf_counter() - began
        began = time.perf_counter()
        if preset is None:
            pipeline = InfinityPipeline.from_pretrained(model, dtype=dtype, device=device)
        else:
            pipeline = random_pipeline(preset, tokenizer, dtype=dtype, device=device)
        loaded = time.perf_counter() - began
        speed = measure_generation(
            pipeline,
            num_images=num_images,
            guidance_scale=guidance,
            runs=runs,
            batch_invariant=batch_invariant,
        )
        result: dict[str, Any] = {
            "model": model or preset or "embedded",
            "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
            "device": pipeline.transformer.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "images": speed.num_images,
            "guidance": speed.guidance_scale,
            "batch_invariant": batch_invariant,
            "runs": runs,
            "import_s": round(imported, 3),
            "load_s": round(loaded, 3),
            **speed.medians(),
            "peak_memory_mb": speed.peak_memory_mb,
        }
        typer.echo(json.dumps(result) if as_json else "\n".join(f"{key:<16} {value}" for key, value in result.items()))
