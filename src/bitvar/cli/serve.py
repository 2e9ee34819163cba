"""`bitvar serve` and `bitvar demo`."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes
from bitvar.cli.threads import wait_politely

if TYPE_CHECKING:
    import logging

    from bitvar.serving.engine.settings import NamedAdapter, WorkerSettings
    from bitvar.serving.replicas.settings import ReplicaSettings

MODEL = Annotated[str | None, typer.Argument(help="Name, folder or hub id. Default: icons, the model in the package.")]
HOST = Annotated[str, typer.Option(help="Address to listen on. Others than this machine's own need --api-key-file.")]
REVISION = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's hub id.")]
DTYPE = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; auto is bf16 on CUDA and fp32 elsewhere.")]
DEVICE = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
FAST = Annotated[
    str,
    typer.Option(
        metavar="auto|exact|off|NAME,...",
        help="Optimizations, as for `bitvar generate`: auto is exact on a CPU and off elsewhere.",
    ),
]
THREADS = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads on the CPU. Default: PyTorch's choice.")]
WATERMARK = Annotated[
    str | None, typer.Option(help="Key file of `bitvar watermark new-key`; every image carries the watermark.")
]
LORA = Annotated[list[str] | None, typer.Option(help="Adapter for requests to choose, as NAME=PATH_OR_ID; repeatable.")]


def serve(
    model: MODEL = None,
    host: HOST = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of keys, one a line; requests must carry one of them.")
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="Name that clients send. Default: the model's own.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Further name that the model answers to; repeatable.")] = None,
    any_model: Annotated[bool, typer.Option("--any-model", help="Answer to every model name.")] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Host name under which the server is reached; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages that may use the API; repeatable.")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="URL under which clients reach the server through a proxy; URLs of images begin with it."),
    ] = None,
    revision: REVISION = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer with a fine-tuned decoder.")] = None,
    dtype: DTYPE = "auto",
    device: DEVICE = "auto",
    fast: FAST = "auto",
    threads: THREADS = None,
    lora: LORA = None,
    watermark: WATERMARK = None,
    c2pa_certificate: Annotated[
        str | None, typer.Option(help="PEM file of certificates; every file is signed. Needs --c2pa-key.")
    ] = None,
    c2pa_key: Annotated[str | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    blocklist: Annotated[
        list[str] | None, typer.Option(help="File of phrases that prompts may not contain; repeatable.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="Folder of an image classifier that may block images. Needs --block-label.")
    ] = None,
    block_label: Annotated[
        list[str] | None,
        typer.Option(help="LABEL=PROBABILITY of the classifier from which an image is blocked; repeatable."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, max=10_000, help="Most requests that wait.")] = 16,
    max_batch: Annotated[
        int, typer.Option(min=1, max=64, help="Most images of a pass, with --no-batch-invariant.")
    ] = 8,
    batch_invariant: Annotated[
        bool,
        typer.Option(help="Compute each image by itself, so that it is the same bytes whatever else is being drawn."),
    ] = True,
    warm_size: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT to draw once before serving; repeatable.")
    ] = None,
    memory_gib: Annotated[
        float | None,
        typer.Option(min=0.01, max=1_000_000, help="Memory for images being drawn. Default: most of what is free."),
    ] = None,
    request_timeout: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds until a request fails.")] = 120.0,
    drain_timeout: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds to finish requests when stopped.")
    ] = 30.0,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Replicas of the model, under Ray Serve. Default: one, without Ray."),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Most replicas: their number follows the load from --replicas up."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to run the replicas on; auto is this machine's. Default: a new one.")
    ] = None,
    replica_cpus: Annotated[
        float | None, typer.Option(min=0, help="CPUs that a replica reserves. Default: --threads, or 1.")
    ] = None,
    replica_gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs that a replica reserves. Default: 1 with CUDA, otherwise 0.")
    ] = None,
) -> None:
    """Serve a model over HTTP: OpenAI's image API with streamed previews, and a page at /."""
    with exit_codes():
        from bitvar.serving.engine.settings import WorkerSettings
        from bitvar.serving.http.keys import read_keys

        worker = WorkerSettings.parse(
            {
                "model": model,
                "revision": revision,
                "tokenizer": tokenizer,
                "dtype": dtype,
                "device": device,
                "fast": fast.split(","),
                "threads": threads,
                "served_name": served_name,
                "adapters": _read_adapters(lora or []),
                "batch_invariant": batch_invariant,
                "max_batch": max_batch,
                "memory_budget": None if memory_gib is None else int(memory_gib * 2**30),
                "watermark": watermark,
                **_read_signing(c2pa_certificate, c2pa_key),
                "blocklists": tuple(blocklist or ()),
                "classifier": _read_classifier(classifier, block_label or []),
                "warm_sizes": tuple(_read_size(text) for text in warm_size or ()),
            },
            source="the options of this command",
        )
        http = {
            "host": host,
            "port": port,
            "api_keys": () if api_key_file is None else read_keys(api_key_file),
            "aliases": tuple(alias or ()),
            "any_model": any_model,
            "allowed_hosts": tuple(allowed_host or ()),
            "allowed_origins": tuple(allow_origin or ()),
            "public_url": None if public_url is None else _read_public_url(public_url),
        }
        limits = {"max_queue": max_queue, "request_timeout": request_timeout, "drain_timeout": drain_timeout}
        scale = {
            "replicas": replicas,
            "max_replicas": max_replicas,
            "address": ray_address,
            "cpus": replica_cpus,
            "gpus": replica_gpus,
        }
        _run(worker, http, limits, open_page=False, replicas=_read_replicas(scale))


def demo(
    model: MODEL = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7861,
    revision: REVISION = None,
    dtype: DTYPE = "auto",
    device: DEVICE = "auto",
    fast: FAST = "auto",
    threads: THREADS = None,
    lora: LORA = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open a page to draw with: type a prompt and watch the image sharpen, scale by scale."""
    with exit_codes():
        from bitvar.serving.engine.settings import WorkerSettings

        worker = WorkerSettings.parse(
            {
                "model": model,
                "revision": revision,
                "dtype": dtype,
                "device": device,
                "fast": fast.split(","),
                "threads": threads,
                "adapters": _read_adapters(lora or []),
            },
            source="the options of this command",
        )
        wait_politely()  # the browser shares the machine
        _run(worker, {"host": "127.0.0.1", "port": port}, {"max_queue": 64}, open_page=browser)


def _read_replicas(options: dict[str, object]) -> "ReplicaSettings | None":
    """Read the options of replicas; None if none is given."""
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    from bitvar.serving.replicas.settings import ReplicaSettings

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    return ReplicaSettings.parse(given, source="the options of this command")


def _run(
    worker: "WorkerSettings",
    http: dict[str, object],
    limits: dict[str, object],
    *,
    open_page: bool,
    replicas: "ReplicaSettings | None" = None,
) -> None:
    """Start the worker and the server, and tell where it is."""
    _require_packages()
    import webbrowser

    from bitvar.serving.engine.backend import WorkerBackend
    from bitvar.serving.engine.engine import Engine, EngineLimits
    from bitvar.serving.http.server import open_socket, serve, url_of
    from bitvar.serving.http.settings import ServerSettings
    from bitvar.serving.replicas.start import ray_backend
    from bitvar.weights.hub import resolve_model

    settings = ServerSettings.parse(http, source="the options of this command")
    settings.check()
    backend = WorkerBackend(worker) if replicas is None else ray_backend(replicas, worker)
    if replicas is None or replicas.address is None:  # else the model need not be on this machine
        resolve_model(worker.model, worker.revision)
    _set_up_logs()
    listening = open_socket(settings.host, settings.port)
    url = url_of(listening)
    say(f"{url}  loading the model; press Ctrl-C to stop", err=True)

    def on_ready(engine: Engine) -> None:
        assert engine.card is not None
        say(f"{url}  {engine.card.digest} is ready; the page is at {url}/, the API at {url}/v1", err=True)

    if open_page:
        webbrowser.open(url)
    bounds = EngineLimits.parse(limits, source="the options of this command")
    serve(backend, settings, bounds, listening=listening, on_ready=on_ready)


def _require_packages() -> None:
    import importlib.util

    from bitvar.errors import UsageError, install_hint

    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError("Can't serve.", f"{' and '.join(missing)} is not installed", install_hint("serve"))


def _read_adapters(texts: list[str]) -> "tuple[NamedAdapter, ...]":
    from bitvar.errors import UsageError
    from bitvar.serving.engine.settings import ADAPTER_NAME, NamedAdapter

    adapters: list[NamedAdapter] = []
    for text in texts:
        name, separator, source = text.partition("=")
        if not separator or not source:
            why = "nothing follows the name" if separator else "it has no name"
            raise UsageError(f"Can't read --lora {text}.", why, "write NAME=PATH_OR_ID")
        if re.fullmatch(ADAPTER_NAME, name) is None:
            why = "a name has 1 to 200 letters without accents, digits, _ and -"
            raise UsageError(
                f"Can't use the name in --lora {text}.", why, "write NAME=PATH_OR_ID, such as ink=ink.lora"
            )
        if any(name == other.name for other in adapters):
            raise UsageError(f"Can't load --lora {text}.", f"{name} is another adapter already", "give it another name")
        adapters.append(NamedAdapter.parse({"name": name, "source": source}, source=f"--lora {text}"))
    return tuple(adapters)


def _read_public_url(text: str) -> str:
    from bitvar.errors import UsageError
    from bitvar.serving.http.settings import PUBLIC_URL

    url = text.rstrip("/")
    if re.fullmatch(PUBLIC_URL, url) is None:
        why = "it must be http:// or https://, a host and perhaps a path, without user and query"
        raise UsageError(f"Can't use --public-url {text!r}.", why, "write one, such as https://images.example.org")
    return url


def _read_size(text: str) -> tuple[int, int]:
    """Read a size without the list of all sizes, whose module needs torch; the worker refuses one that isn't native."""
    from bitvar.errors import UsageError

    match = re.fullmatch("([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if match is None:
        raise UsageError(f"Can't read --warm-size {text}.", "it is no size", "write WIDTHxHEIGHT, such as 256x256")
    return int(match[1]), int(match[2])


def _read_signing(certificate: str | None, key: str | None) -> dict[str, object]:
    from bitvar.errors import UsageError

    if (certificate is None) != (key is None):
        missing = "--c2pa-certificate" if certificate is None else "--c2pa-key"
        why = f"signing takes a certificate and its key, and {missing} is missing"
        raise UsageError("Can't sign images.", why, "give both --c2pa-certificate and --c2pa-key")
    return {"certificate": certificate, "signing_key": key}


def _read_classifier(folder: str | None, labels: list[str]) -> dict[str, object] | None:
    from bitvar.errors import UsageError

    if folder is None and not labels:
        return None
    if folder is None or not labels:
        missing = "--classifier FOLDER" if folder is None else "--block-label LABEL=PROBABILITY"
        raise UsageError("The image classifier would block nothing.", f"{missing} is missing", "give both")
    blocked = {}
    for text in labels:
        label, separator, number = text.rpartition("=")
        try:
            blocked[label] = float(number)
        except ValueError:
            separator = ""
        if not separator:
            raise UsageError(f"Can't read --block-label {text}.", "it has no probability", "write LABEL=0.5")
    return {"folder": folder, "blocked": blocked}


def _is_worth_a_line(record: "logging.LogRecord") -> bool:
    """Whether a record is not uvicorn's advice to install WebSockets, which it gives whenever a client offers any."""
    return not (record.name.startswith("uvicorn") and ("WebSocket" in record.msg or "upgrade" in record.msg))


def _set_up_logs() -> None:
    """Write the logs as one JSON object a line on standard error."""
    import logging
    import sys

    from bitvar.serving.logs import JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_worth_a_line)
    for name, level in (("bitvar", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
