"""`bitvar bench command`: time the whole command, as a user waits for it, beside nothing and beside a busy program."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.threads import describe_threads


def command(
    prompt: Annotated[str, typer.Argument(help="Prompt of the image.")] = "a red apple",
    model: Annotated[str | None, typer.Option(help="Model of the image. Default: the embedded model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    neighbour: Annotated[
        str, typer.Option(help="torch, training steps on all processors, or loop, one busy processor.")
    ] = "torch",
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Pairs of runs, after a warm-up.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time `bitvar generate` from start to end, by itself and beside a busy program, in turns."""
    with exit_codes():
        from bitvar.errors import UsageError
        from bitvar.profiling.command import NEIGHBOURS, measure_command

        if neighbour not in NEIGHBOURS:
            raise UsageError(f"There is no neighbour {neighbour!r}.", fix=f"choose from {list(NEIGHBOURS)}")
        before = describe_threads()
        theirs = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
        with tempfile.TemporaryDirectory() as folder:
            image = str(Path(folder) / "image.png")
            options = ["--seed", "1", "--dtype", dtype, "-o", image, *([] if model is None else ["--model", model])]
            words = [sys.executable, "-m", "bitvar", "generate", *options, "--", prompt]
            times = measure_command(words, neighbour, runs=runs, environment=os.environ, theirs=theirs)
        result: dict[str, Any] = {
            "model": model or "embedded",
            "neighbour": neighbour,
            "pairs": runs,
            **before,
            **times.summary(),
        }
        typer.echo(json.dumps(result) if as_json else "\n".join(f"{key:<24} {value}" for key, value in result.items()))
