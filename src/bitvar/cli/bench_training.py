"""`bitvar bench train | attention | loader | index | save`: measure the speed of training and its components."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    import torch

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def train(
    recipe: Annotated[Path | None, typer.Option(help="Recipe of the transformer or tokenizer to train.")] = None,
    preset: Annotated[str | None, typer.Option(help="Time a preset with AdamW instead, for example 125M.")] = None,
    pixels: Annotated[int, typer.Option(help="Side of the square images of --preset: 256, 512 or 1024.")] = 256,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples per step. Default: the recipe's, or 8.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Precision of activations: fp32 or bf16. Default: the recipe's, or bf16.")
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile each block with torch.compile.")] = False,
    attention: Annotated[str, typer.Option(help="sdpa, or flex for FlexAttention on CUDA.")] = "sdpa",
    runs: Annotated[int, typer.Option(min=1, help="Number of timed steps, after two warm-up steps.")] = 10,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time whole training steps on random data: loss, gradients, optimizer and weight averaging. Print the median."""
    with exit_codes():
        from bitvar.profiling.training import measure_training, read_config
        from bitvar.runtime.placement import resolve_device

        config, chosen = read_config(recipe, preset, batch, dtype), resolve_device(device)
        speed = measure_training(
            config,
            chosen,
            pixels=None if preset is None else pixels,
            attention=attention,
            activation_checkpointing=activation_checkpointing,
            compiled=compiled,
            runs=runs,
        )
        settings = {
            "attention": attention,
            "activation_checkpointing": activation_checkpointing,
            "compile": compiled,
            "runs": runs,
        }
        result = {
            **speed.sizes,
            "batch": speed.batch_size,
            "precision": config.optimization.precision,
            "optimizer": config.optimization.optimizer,
            **_where(chosen, settings),
            "step_s": round(speed.step_s, 4),
            "samples_per_second": round(speed.samples_per_second, 3),
            **speed.rates,
            "peak_memory_mb": speed.peak_memory_mb,
        }
        _print(result, as_json)


def attention(
    pixels: Annotated[int, typer.Option(help="Side of the square image in pixels: 256, 512 or 1024.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 2,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    runs: Annotated[int, typer.Option(min=1, help="Number of timed runs, after one warm-up run.")] = 8,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time the forward and backward pass of block-causal attention, by scale and with one dense mask."""
    with exit_codes():
        import torch

        from bitvar.nn.attention import BlockCausal, attend
        from bitvar.official_schedules import official_schedule
        from bitvar.profiling.clock import Clock
        from bitvar.profiling.training import budget_of
        from bitvar.runtime.placement import resolve_device, resolve_dtype

        schedule, chosen = official_schedule("1.0", budget_of(pixels)), resolve_device(device)
        scale = schedule.scale_index().to(chosen)
        ways = {"scales_s": BlockCausal(schedule.offsets), "dense_s": (scale[:, None] >= scale[None, :])[None, None]}
        shape = (3, batch, 8, schedule.num_tokens, 96)
        q, k, v = torch.randn(shape, dtype=resolve_dtype(dtype, chosen), device=chosen, requires_grad=True).unbind()
        clock, seconds = Clock(chosen), {name: list[float]() for name in ways}
        for _ in range(runs + 1):
            for name, mask in ways.items():
                clock.lap()
                attend(q, k, v, scale=1.0, mask=mask).float().sum().backward(retain_graph=True)
                seconds[name].append(clock.lap())
        medians = {name: round(statistics.median(taken[1:]), 5) for name, taken in seconds.items()}
        result = {"tokens": schedule.num_tokens, "batch": batch, "dtype": dtype, "device": chosen.type}
        result |= {"threads": torch.get_num_threads(), "runs": runs, **medians}
        _print(result | {"ratio": round(medians["dense_s"] / medians["scales_s"], 2)}, as_json)


def loader(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Index written by `bitvar data index`.")],
    size: Annotated[int, typer.Option(min=8, help="Side in pixels of the square crops.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Samples per batch.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Number of loader processes; 0 to load in the main process.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Number of timed batches, after four warm-up batches.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Time reading, decoding and cropping the images of an index, without training."""
    with exit_codes():
        from bitvar.data.captions import CaptionChoice
        from bitvar.data.index import SampleIndex
        from bitvar.data.order import SampleOrder
        from bitvar.training.engine.microbatch import micro_batches_of
        from bitvar.training.streaming import MicroBatchReader, read_micro_batches

        opened = SampleIndex.open(index)
        reader = MicroBatchReader(opened, opened.groups, [(size, size)] * len(opened.groups), CaptionChoice())
        order = SampleOrder(tuple(group.count for group in opened.groups), batch, 0)
        loaded = read_micro_batches(reader, micro_batches_of(order, range(runs + 4)), workers=workers)
        for _ in range(4):
            next(loaded)
        began = time.perf_counter()
        refused = sum(len(micro_batch.refused) for micro_batch in loaded)
        took = time.perf_counter() - began
        result = {"samples": len(opened), "size": size, "batch": batch, "workers": workers, "runs": runs}
        _print(result | {"refused": refused, "samples_per_second": round(runs * batch / took, 1)}, as_json)


def index(
    samples: Annotated[int, typer.Option(min=1000, help="Number of samples in the index.")] = 10_000_000,
    folder: Annotated[
        Path, typer.Option(help="Folder for the temporary index, which takes 130 bytes per sample.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Time writing an index of synthetic samples, then resuming a run from it in a new process."""
    with exit_codes():
        import subprocess
        import sys

        from bitvar.data.index_writing import IndexWriter
        from bitvar.data.layouts import RawSample
        from bitvar.data.validation import Summary
        from bitvar.imaging.open import Location

        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            began = time.perf_counter()
            written = Path(temporary) / "index"
            written.mkdir()
            with IndexWriter(written, written, content_hash=True) as writer:
                for i in range(samples):
                    place = Location(written / f"{i // 10_000:05d}.tar", i % 10_000 * 512, 512)
                    split = "val" if i % 100 == 0 else "train"
                    raw_sample = RawSample(f"{i}", place, (f"made-up image {i}",), split)
                    writer.append(raw_sample, size=(640, 480) if i % 2 else (480, 640), digest=bytes(32))
                writer.finish(Summary())
            took = time.perf_counter() - began
            command = [sys.executable, "-c", _RESUME, str(written)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        _print({"samples": samples, "write_s": round(took, 1)} | json.loads(done.stdout), as_json)


_RESUME = """
import json, pathlib, resource, sys, time
import torch
began = time.perf_counter()
from bitvar.data.index import SampleIndex
from bitvar.data.order import SampleOrder
from bitvar.training.engine.microbatch import micro_batches_of
imported = time.perf_counter()
index = SampleIndex.open(pathlib.Path(sys.argv[1]))
groups = [group for group in index.groups if group.split == "train"]
order = SampleOrder(tuple(group.count for group in groups), 256, 0)
(micro_batch,) = micro_batches_of(order, range(123_456, 123_457))
first = [index[groups[micro_batch.bucket].start + int(i)] for i in micro_batch.samples]
ready = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
times = {"import_s": round(imported - began, 3), "resume_s": round(ready - imported, 4)}
print(json.dumps(times | {"peak_memory_mb": round(peak, 1)}))
"""
"""Script that resumes at step 123,456 and reads the records of one batch. Its times exclude `import torch`."""


def save(
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the checkpoint in MB.")] = 500,
    folder: Annotated[Path, typer.Option(help="Folder on the disk to measure.")] = Path(),
    runs: Annotated[int, typer.Option(min=1, help="Number of timed saves, after one warm-up save.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Time each stage of saving a checkpoint: copying the state, writing, flushing and hashing."""
    with exit_codes():
        import torch

        from bitvar.files import flush
        from bitvar.profiling.clock import Clock
        from bitvar.weights.digests import digest
        from bitvar.weights.tensors import write_tensors

        tensor = torch.randn(megabytes * 250_000)
        lines: list[dict[str, float]] = []
        clock = Clock(tensor.device)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(temporary) / "model.safetensors"
            for _ in range(runs + 1):
                clock.lap()
                copy = tensor.clone()
                copied = clock.lap()
                write_tensors({"model": copy}, path)
                written = clock.lap()
                flush(path)
                flushed = clock.lap()
                digest(path)
                lines.append({"copy_s": copied, "write_s": written, "flush_s": flushed, "digest_s": clock.lap()})
                path.unlink()
        medians = {name: round(statistics.median(line[name] for line in lines[1:]), 4) for name in lines[0]}
        share = statistics.median(line["digest_s"] / sum(line.values()) for line in lines[1:])
        _print({"megabytes": megabytes, "runs": runs, **medians, "digest_share": round(share, 3)}, as_json)


def _print(result: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(result) if as_json else "\n".join(f"{key:<20} {value}" for key, value in result.items()))


def _where(device: "torch.device", rest: dict[str, Any]) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**rest, "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
