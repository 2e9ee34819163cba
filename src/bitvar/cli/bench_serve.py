"""`bitvar bench serve`: measure a server as its clients see it."""

import json
import sys
from typing import Annotated

import typer

from bitvar.cli.exit_codes import exit_codes


def serve(
    url: Annotated[
        str | None, typer.Option(help="Measure a running, idle server. Default: start one, and the engine alone.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to serve. Default: the embedded model.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU. Default: PyTorch's choice.")] = None,
    clients: Annotated[int, typer.Option(min=1, max=256, help="Clients that ask at the same time.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Images of each run of the throughput.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each measurement, after a warm-up.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time the start, the first preview, throughput, /livez under load, and what a cancelled request costs."""
    with exit_codes():
        from bitvar.serving.benchmark import engine_alone, measure_server, measure_throughput, started_server
        from bitvar.serving.engine.settings import WorkerSettings

        if url is not None:
            measured = measure_server(url.rstrip("/"), clients=clients, images=images, runs=runs)
        else:
            named = [] if model is None else [model]
            chosen = [] if threads is None else ["--threads", str(threads)]
            command = [sys.executable, "-m", "bitvar", "serve", *named, "--port", "0", *chosen]
            settings = WorkerSettings(model=model, threads=threads)
            with started_server([*command, "--max-queue", str(max(16, clients))]) as (address, answered, ready):
                measured = measure_server(address, clients=clients, images=images, runs=runs)
                measured.front_seconds, measured.ready_seconds = answered, ready
                measured.served.clear()
                with engine_alone(settings, clients=clients, images=images) as alone:
                    alone()
                    for _ in range(runs):  # in turns, since other programs may be busy for a while
                        measure_throughput(address, measured, clients=clients, images=images, alone=alone)
        described = {"clients": clients, "images": images, "runs": runs, "threads": threads}
        result = {"server": url or "started here", "model": model or "embedded", **described, **measured.summary()}
        lines = "\n".join(f"{key:<26} {value}" for key, value in result.items())
        typer.echo(json.dumps(result) if as_json else lines)
