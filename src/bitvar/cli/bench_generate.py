"""`bitvar bench generate | compare`: measure the speed of generation, and compare two settings in one run."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bitvar.cli.exit_codes import exit_codes
from bitvar.errors import UsageError

if TYPE_CHECKING:
    from bitvar.profiling.comparison import Comparison, Rate
    from bitvar.profiling.generation import GenerationSetting

AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


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
    fast: Annotated[
        str,
        typer.Option(metavar="auto|exact|off|NAME,...", help="Optimizations, as `bitvar generate` takes them."),
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU. Default: PyTorch's choice.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time loading, text encoding, every scale and decoding. Print median seconds and peak memory."""
    with exit_codes():
        began = time.perf_counter()
        import torch

        from bitvar.profiling.generation import GenerationSetting, measure_generation
        from bitvar.profiling.generation import threads as using

        imported = time.perf_counter() - began
        began = time.perf_counter()
        setting = GenerationSetting(
            model, preset, tokenizer, dtype, device, fast, num_images, guidance, batch_invariant, threads
        )
        with using(threads) as count:
            pipeline = setting.load()
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
            "threads": count,
            "optimizations": ", ".join(pipeline.optimizations) or "none",
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


def compare(
    a: Annotated[str, typer.Option("--a", help="Options of `bitvar bench generate`, in quotes.")],
    b: Annotated[str, typer.Option("--b", help="Options of the other setting, in quotes.")],
    both: Annotated[str, typer.Option(help='Options of both settings, such as "--preset 125M".')] = "",
    runs: Annotated[int, typer.Option(min=2, help="Number of pairs of calls, after a warm-up call of each.")] = 9,
    roofline: Annotated[
        bool, typer.Option(help="Measure also how fast the kernels are by themselves at the shapes in use.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Time two settings in turn. Print the ratio of every stage, and how near each is to what the machine can do.

    A ratio is A's time over B's, so above 1 B is faster. Seconds are medians, an image.
    """
    with exit_codes():
        settings = (_setting("--a", f"{both} {a}"), _setting("--b", f"{both} {b}"))

        from bitvar.profiling.comparison import compare
        from bitvar.profiling.machine import describe_machine

        comparison = compare(settings, pairs=runs, roofline=roofline)
        machine = describe_machine()
        given = (f"{both} {a}".strip(), f"{both} {b}".strip())
        if as_json:
            typer.echo(json.dumps(_as_json(comparison, given, machine)))
        else:
            typer.echo("\n".join(_as_text(comparison, given, machine)))


_CommandLineError: Any = typer.BadParameter.__mro__[1]  # of typer's bundled click, which moves between versions

_OF_COMPARE: Final = {"runs": "--runs", "as_json": "--json"}
"""Options of `bench generate` that `bench compare` has itself, by parameter."""


def _setting(option: str, text: str) -> "GenerationSetting":
    """Read one setting with the parser of `bitvar bench generate`.

    Raises:
        UsageError: for options that `bitvar bench generate` doesn't take, or that belong to `bitvar bench compare`.
    """
    app = typer.Typer()
    app.command()(generate)
    command = typer.main.get_command(app)
    what, fix = f"Bad value for {option}.", "give options of `bitvar bench generate`, such as --dtype bf16"
    try:
        context = command.make_context("bench generate", shlex.split(text))
    except ValueError as error:
        raise UsageError(what, str(error), fix) from None
    except typer.Exit:
        raise UsageError(what, "it asks for help", fix) from None
    except _CommandLineError as error:
        raise UsageError(what, error.format_message(), fix) from None
    for name, known in _OF_COMPARE.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(what, f"{known} belongs to neither setting", f"give {known} to `bitvar bench compare`")

    from bitvar.profiling.generation import GenerationSetting

    return GenerationSetting(**{name: value for name, value in context.params.items() if name not in _OF_COMPARE})


def _as_json(comparison: "Comparison", given: tuple[str, str], machine: Mapping[str, Any]) -> dict[str, Any]:
    sides = {
        name: {
            "options": options,
            "dtype": side.dtype,
            "device": side.device,
            "threads": side.threads,
            "optimizations": side.optimizations,
            "seconds": side.seconds,
            "flops_per_second": {stage: rate.achieved for stage, rate in side.rates.items()},
            "attainable_flops_per_second": {stage: rate.attainable for stage, rate in side.rates.items()},
        }
        for name, options, side in zip("ab", given, comparison.sides, strict=True)
    }
    ratios = {stage: ratio._asdict() for stage, ratio in comparison.ratios.items()}
    others = {"other_programs_processors": comparison.others, "remarks": comparison.remarks}
    return {"machine": dict(machine), **sides, "pairs": comparison.pairs, "ratios": ratios, **others}


def _as_text(comparison: "Comparison", given: tuple[str, str], machine: Mapping[str, Any]) -> Iterator[str]:
    for name, options, side in zip("AB", given, comparison.sides, strict=True):
        where = f"{side.device}, {side.dtype}, {side.threads} thread{'s' * (side.threads != 1)}"
        where += f"; {', '.join(side.optimizations)}" if side.optimizations else ""
        yield f"{name:<12} {options or 'the embedded model'} ({where})"
    for key, value in machine.items():
        if key != "threads":  # each side has its own
            yield f"{key:<12} {', '.join(value) or 'unknown' if isinstance(value, list) else value}"
    others = "unknown" if comparison.others is None else f"{comparison.others:.2f} processors"
    yield f"{'others':<12} {others} kept busy by other programs meanwhile"
    yield f"{'pairs':<12} {comparison.pairs}, in alternating order"
    yield ""
    header = f"{'stage':<12}{'A s':>9}{'B s':>9}{'A / B':>8}  {'quartiles':<14}"
    rates = any(side.rates for side in comparison.sides)
    yield (header + f"  {'A: GFLOP/s of attainable':<26}{'B: GFLOP/s of attainable':<26}" * rates).rstrip()
    a, b = comparison.sides
    for stage in dict.fromkeys([*a.seconds, *b.seconds]):
        seconds = "".join(f"{s.seconds[stage]:9.4f}" if stage in s.seconds else f"{'':9}" for s in (a, b))
        ratio = comparison.ratios.get(stage)
        compared = f"{ratio.median:8.2f}  {f'{ratio.low:.2f} to {ratio.high:.2f}':<14}" if ratio else " " * 24
        reached = "".join(f"{_rate(side.rates.get(stage)):<26}" for side in (a, b))
        yield f"{stage.removesuffix('_s'):<12}{seconds}{compared}  {reached}".rstrip()
    for remark in comparison.remarks:
        yield f"NOTE: {remark}"


def _rate(rate: "Rate | None") -> str:
    if rate is None:
        return ""
    return f"{rate.achieved / 1e9:,.0f} of {rate.attainable / 1e9:,.0f} ({rate.achieved / rate.attainable:.0%})"
