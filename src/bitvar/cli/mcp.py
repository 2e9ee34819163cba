"""`bitvar mcp`: a server of the Model Context Protocol, so that agents can draw."""

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli.echo import say, show_path
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline


def mcp(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Folder, hub id or name. Default: the embedded model.")
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve by streamable HTTP, not on standard input.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of --http, on 127.0.0.1.")] = 7862,
    save_to: Annotated[
        Path | None,
        typer.Option(help="Folder to write every image to, and to read images from. Default: no file is touched."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    fast: Annotated[str, typer.Option(help="Optimizations, as for `bitvar generate`.")] = "auto",
) -> None:
    """Let agents draw: serve the Model Context Protocol on standard input and output, or by HTTP on this machine."""
    with exit_codes():
        _require_packages()
        import anyio

        from bitvar.errors import UsageError
        from bitvar.integrations.mcp.server import serve_http, serve_stdio
        from bitvar.integrations.mcp.studio import Studio
        from bitvar.weights.hub import refuse_revision, resolve_model
        from bitvar.weights.hub_cache import default_cache

        if save_to is not None and not save_to.is_dir():
            raise UsageError(f"There is no folder {save_to}.", fix="create it, so that its name is no mistake")
        folder = resolve_model(model, revision)  # a wrong name is told before a client connects
        if model is None:
            refuse_revision(revision, folder, "model")
        load = partial(_load, folder, dtype, device, fast)
        studio = Studio(load, folder=save_to.resolve() if save_to else None, cache=default_cache())
        if http:
            _require_free(port)
            say(f"MCP at http://127.0.0.1:{port}/mcp", err=True)
            anyio.run(serve_http, studio, port)
        else:
            where = f"; images go to {show_path(save_to)}" if save_to else ""
            say(f"MCP on standard input and output{where}. Ctrl-C stops it.", err=True)
            anyio.run(serve_stdio, studio)


def _require_free(port: int) -> None:
    """Refuse a port that another program listens on."""
    from bitvar.errors import UsageError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UsageError(f"Can't listen on port {port}.", why, "choose another --port") from None


def _load(folder: Path, dtype: str, device: str, fast: str) -> "InfinityPipeline":
    from bitvar.pipeline import InfinityPipeline

    names = [name.strip() for name in fast.split(",")]
    return InfinityPipeline.from_pretrained(folder, dtype=dtype, device=device, fast=names)


def _require_packages() -> None:
    import importlib.util

    from bitvar.errors import UsageError, install_hint

    missing = [name for name in ("mcp", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"bitvar mcp needs {' and '.join(missing)}.", fix=install_hint("mcp"))
