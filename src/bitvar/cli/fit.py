"""`bitvar fit MODEL`: predict the memory of generating images before loading a model."""

import json
import math
from typing import Annotated

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes


def fit(
    model: Annotated[
        str | None,
        typer.Argument(help="Preset such as 2B or 8B (with T5-XL), folder, or hub id. Default: the embedded model."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels. Default: the model's.")] = None,
    aspect: Annotated[
        str | None, typer.Option(help="Aspect ratio, width first, such as 16:9, at the model's usual area.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-n", min=1, help="Images per call.")] = 1,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; 1 is without guidance. Default: the model's own.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    device_gib: Annotated[
        float | None,
        typer.Option("--device-gib", min=0, help="Memory of the device that the call is meant for, in GiB."),
    ] = None,
    offload: Annotated[
        str | None, typer.Option(help="Parts that wait on the host: text, blocks, or text,blocks. Default: none.")
    ] = None,
    sequential_guidance: Annotated[
        bool, typer.Option("--sequential-guidance", help="Compute guidance's two halves one after the other.")
    ] = False,
    tile: Annotated[bool, typer.Option("--tile", help="Decode in tiles of 256 pixels.")] = False,
    fast: Annotated[
        str, typer.Option(metavar="auto|exact|off|NAME,...", help="Optimizations, as for `bitvar generate`.")
    ] = "auto",
    cards: Annotated[
        bool, typer.Option("--cards", help="Print a table of common cards, with the first settings that fit.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON, sizes in bytes.")] = False,
) -> None:
    """Predict the memory of generating images, and name the first settings that fit. No weights are loaded."""
    with exit_codes():
        from bitvar.cli.memory_options import read_parts
        from bitvar.cli.sizes import read_size
        from bitvar.errors import UsageError
        from bitvar.pipeline import InfinityPipeline
        from bitvar.profiling.fit import FitRequest, describe_cards, predict_fit
        from bitvar.runtime.tiled_decode import TILE

        assert InfinityPipeline  # a process that generates has imported it, and its memory is counted
        if guidance is not None and not math.isfinite(guidance):
            raise UsageError(f"The guidance scale can't be {guidance}.", fix="give a number, such as 3")
        if cards and as_json:
            raise UsageError("--cards prints a table, which has no JSON form.", fix="give one of --cards and --json")
        wanted = read_size(size, aspect)
        request = FitRequest(
            model=model,
            size=None if wanted is None else wanted.in_pixels((1024, 1024)),
            images=batch,
            device=device,
            device_gib=device_gib,
            dtype=dtype,
            guided=None if guidance is None else guidance != 1,
            offload=read_parts(offload),
            sequential_guidance=sequential_guidance,
            tile=TILE if tile else None,
            fast=tuple(fast.split(",")),
        )
        if cards:
            say(describe_cards(request))
            return
        predicted = predict_fit(request)
        say(json.dumps(predicted.facts()) if as_json else predicted.describe())
