"""`bitvar bench`: where the time goes. Benchmarks are commands, never assertions."""

import json
import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli import bench_training
from bitvar.cli.exit_codes import exit_codes
from bitvar.profiling.clock import Clock, peak_memory

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline
    from bitvar.sampling.params import SamplingParams

app = typer.Typer(help="Benchmarks.", no_args_is_help=True, rich_markup_mode=None)


for verb in (
    bench_training.train,
    bench_training.attention,
    bench_training.loader,
    bench_training.index,
    bench_training.save,
):
    app.command()(verb)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def generate(
    model: Annotated[str | None, typer.Option(help="Folder or hub id. Default: the embedded model.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Instead: this preset with random weights and text, as 125M.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="The tokenizer of --preset.")] = "d32",
    n: Annotated[int, typer.Option("--num-images", min=1, help="Images at once.")] = 1,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; 1 halves the work. Default: the model's own; 4 with --preset.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one warm-up.")] = 5,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    batch_invariant: Annotated[
        bool, typer.Option(help="Compute each image by itself, as calls do; else the batch in one pass.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time loading, text, every scale and decoding, in seconds; medians over the runs, and peak memory."""
    with exit_codes():
        began = time.perf_counter()
        import torch

        from bitvar.pipeline import InfinityPipeline
        from bitvar.sampling.params import SamplingParams

        imported = time.perf_counter() - began
        began = time.perf_counter()
        if preset is None:
            pipeline = InfinityPipeline.from_pretrained(model, dtype=dtype, device=device)
        else:
            pipeline = _random_pipeline(preset, tokenizer, dtype, device)
        loaded = time.perf_counter() - began
        params = pipeline.params_for(SamplingParams(guidance_scale=guidance))
        timings = [_one_run(pipeline, n, params, seed, batch_invariant=batch_invariant) for seed in range(runs + 1)][1:]
        result: dict[str, Any] = {
            "model": model or preset or "embedded",
            "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
            "device": pipeline.transformer.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "images": n,
            "guidance": params.guidance_scale,
            "batch_invariant": batch_invariant,
            "runs": runs,
            "import_s": round(imported, 3),
            "load_s": round(loaded, 3),
            **{name: round(statistics.median(run[name] for run in timings), 4) for name in timings[0]},
            "peak_memory_mb": peak_memory(pipeline.transformer.device),
        }
        typer.echo(json.dumps(result) if as_json else "\n".join(f"{key:<16} {value}" for key, value in result.items()))


def _random_pipeline(preset: str, tokenizer: str, dtype: str, device: str) -> "InfinityPipeline":
    """A preset with random weights: its speed is that of trained ones."""
    import torch

    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.nn.linear import channels_last
    from bitvar.pipeline import InfinityPipeline
    from bitvar.runtime.placement import resolve_device, resolve_dtype
    from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer
    from bitvar.transformer import PRESETS, InfinityTransformer
    from bitvar.weights.identity import TokenizerIdentity
    from bitvar.weights.index import ModelIndex
    from bitvar.weights.model_folder import Components

    for what, name, table in (("preset", preset, PRESETS), ("tokenizer", tokenizer, TOKENIZER_PRESETS)):
        if name not in table:
            raise UsageError(unknown(f"{what} {name!r}", name, list(table)))
    chosen = resolve_device(device)
    with torch.device(chosen):
        transformer = InfinityTransformer(PRESETS[preset])
        images = channels_last(InfinityTokenizer(TOKENIZER_PRESETS[tokenizer]))
    if chosen.type == "cpu":
        transformer.init_weights(torch.Generator().manual_seed(0))
    for part in (transformer, images):
        part.to(resolve_dtype(dtype, chosen)).eval().requires_grad_(False)
    identity = TokenizerIdentity(name=tokenizer, sha256="0" * 64)
    index = ModelIndex(
        name=preset, tokenizer=identity, defaults=SamplingParams(guidance_scale=4.0, temperature=0.5, top_p=0.97)
    )
    return InfinityPipeline(Components(transformer, images, None, index, ""))


def _one_run(
    pipeline: "InfinityPipeline", n: int, params: "SamplingParams", seed: int, *, batch_invariant: bool
) -> dict[str, float]:
    """Seconds of each part of one call, the device waited for."""
    import torch

    from bitvar.condition import TextCondition
    from bitvar.sampling.generate import generate as sample
    from bitvar.sampling.generate import generate_apart

    config = pipeline.transformer.config
    clock = Clock(pipeline.transformer.device)
    if pipeline.text_encoder is None:
        generator = torch.Generator().manual_seed(seed)
        condition = TextCondition.from_list([torch.randn(20, config.text_width, generator=generator) for _ in range(n)])
    else:
        condition = pipeline.encode_prompts(_distinct_prompts(n), batch_invariant=batch_invariant)
    timings = {"text_s": clock.lap()}
    result = None
    schedule = pipeline.schedule_for(None, None)
    walk = generate_apart if batch_invariant else sample
    for result in walk(pipeline.transformer, condition, schedule, params=params, seeds=range(seed, seed + n)):
        timings[f"scale_{result.k + 1}_s"] = clock.lap()
    assert result is not None
    timings["scales_s"] = sum(seconds for name, seconds in timings.items() if name.startswith("scale_"))
    with torch.inference_mode():
        for part in result.latent.split(1) if batch_invariant else [result.latent]:
            pipeline.tokenizer.decode(part)
    timings["decode_s"] = clock.lap()
    timings["total_s"] = timings["text_s"] + timings["scales_s"] + timings["decode_s"]
    return timings


def _distinct_prompts(n: int) -> list[str]:
    """As many prompts, of several lengths: equal ones would be encoded once."""
    things = ("red apple", "cat", "house with a chimney", "blue balloon", "car", "star", "tree", "green fish")
    endings = (", 3D emoji", "", " on a yellow background", ", flat icon")
    prompts = [f"a {thing}{ending}" for ending in endings for thing in things]
    return [f"{prompts[i % len(prompts)]} {i // len(prompts)}".removesuffix(" 0") for i in range(n)]
