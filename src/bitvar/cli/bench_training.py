"""`bitvar bench train | attention | loader | index | save`: what training does in a second."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes
from bitvar.profiling.clock import Clock, peak_memory

if TYPE_CHECKING:
    import torch

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def train(
    recipe: Annotated[
        Path | None, typer.Option(help="Its sizes and settings; of a transformer or a tokenizer.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Instead: this preset, with AdamW, as 125M.")] = None,
    pixels: Annotated[int, typer.Option(help="Side of the square images of --preset: 256, 512 or 1024.")] = 256,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a step. Default: the recipe's; 8.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16, of activations. Default: the recipe's; bf16.")
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Make activations again when needed.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Through torch.compile, block by block.")] = False,
    attention: Annotated[str, typer.Option(help="sdpa, or flex: FlexAttention, for CUDA.")] = "sdpa",
    runs: Annotated[int, typer.Option(min=1, help="Counted steps, after two to warm up.")] = 10,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time whole training steps on random features or images: loss, gradients, optimiser, averages; the median."""
    with exit_codes():
        from bitvar.data.order import SampleOrder
        from bitvar.profiling.training import read_config, timed_tokenizer, timed_transformer
        from bitvar.runtime.compile import compile_blocks
        from bitvar.runtime.placement import resolve_device
        from bitvar.training.config import TransformerTraining
        from bitvar.training.engine.checkpoint import TrainState
        from bitvar.training.engine.distributed import DistributedContext, distribute
        from bitvar.training.engine.microbatch import micro_batches_of
        from bitvar.training.engine.optim import Ema, build_optimizer
        from bitvar.training.engine.update import Updater

        config, chosen = read_config(recipe, preset, batch, dtype), resolve_device(device)
        if isinstance(config, TransformerTraining):
            timed = timed_transformer(config, None if preset is None else pixels, attention, chosen)
        else:
            timed = timed_tokenizer(config, attention, chosen)
        task, optimization, model = timed.task, config.optimization, timed.task.model
        compile_blocks(timed.lightened, activation_checkpointing=activation_checkpointing, compiled=compiled)
        distribute(model, task.fsdp_units, DistributedContext(), precision=timed.task.dtype, device=chosen)
        state = TrainState(model, Ema(model, optimization.ema_decay), build_optimizer(model, optimization))
        order = SampleOrder(task.counts, optimization.batch_size, 0)
        batches = task.batches(micro_batches_of(order, range(runs + 2)))
        updater = Updater(state, task.loss, optimization)
        clock, seconds = Clock(chosen), list[float]()
        for _ in range(runs + 2):
            updater.step(batches)
            seconds.append(clock.lap())
        step = statistics.median(seconds[2:])
        settings = {
            "attention": attention,
            "activation_checkpointing": activation_checkpointing,
            "compile": compiled,
            "runs": runs,
        }
        result = {
            **timed.sizes,
            "batch": optimization.batch_size,
            "precision": optimization.precision,
            "optimizer": optimization.optimizer,
            **_where(chosen, settings),
            "step_s": round(step, 4),
            "samples_per_second": round(optimization.batch_size / step, 3),
            **timed.rates(step),
            "peak_memory_mb": peak_memory(chosen),
        }
        _print(result, as_json)


def attention(
    pixels: Annotated[int, typer.Option(help="Side of the square image: 256, 512 or 1024.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Rows.")] = 2,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one to warm up.")] = 8,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time block-causal attention forwards and backwards, scale by scale and under one dense mask; medians."""
    with exit_codes():
        import torch

        from bitvar.nn.attention import BlockCausal, attend
        from bitvar.official_schedules import official_schedule
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
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `bitvar data index` wrote.")],
    size: Annotated[int, typer.Option(min=8, help="Side of the square to which images are cut, in pixels.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read; 0 for none.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Counted batches, after four to warm up.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Time reading, decoding and cutting images of an index, with nothing else going on."""
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
    samples: Annotated[int, typer.Option(min=1000, help="How many the index has.")] = 10_000_000,
    folder: Annotated[Path, typer.Option(help="Where to write it for the while: 130 bytes a sample.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write an index of made-up samples, then open it in a new process and go on from the middle of a run."""
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
"""Resuming at step 123,456, up to the records of the first batch; only `import torch` is not counted."""


def save(
    megabytes: Annotated[int, typer.Option(min=1, help="Size of the checkpoint.")] = 500,
    folder: Annotated[Path, typer.Option(help="On the disk to measure.")] = Path(),
    runs: Annotated[int, typer.Option(min=1, help="Counted saves, after one to warm up.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Time the parts of a checkpoint's writing: copying the state, writing and flushing it, its digests; medians."""
    with exit_codes():
        import torch

        from bitvar.files import flush
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
