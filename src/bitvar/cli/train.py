"""`bitvar train RECIPE`."""

import contextlib
import runpy
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli.exit_codes import TERMINATED, exit_codes

if TYPE_CHECKING:
    from bitvar.training.config import TokenizerTraining, TransformerTraining
    from bitvar.training.loop import Run


def train(
    recipe: Annotated[Path, typer.Argument(help="A Python file whose function `recipe()` returns the configuration.")],
    data: Annotated[Path, typer.Option(help="A captioned set, such as `bitvar data icons` makes.")],
    out: Annotated[Path, typer.Option(help="Folder of the run. The same command again resumes it.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override: optimization.steps=1000")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The trained tokenizer: OUT/model of its run. Default: the one of --init.")
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option(help="Folder of a MiniLM-shaped text encoder. Default: the one of --init.")
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option("--init", help="Begin from this model (a folder, a hub id, or icons) or checkpoint of a run."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model that comes out.")] = "icons",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the configuration and stop.")] = False,
) -> None:
    """Train a tokenizer or a transformer by a recipe; rerun the command to resume."""
    with exit_codes(), _stoppable() as stop:
        config = _read_recipe(recipe).override(settings or [])
        if dry_run:
            typer.echo(config.dump())
            return
        planned = _plan(config, out, stop)
        if config.kind == "tokenizer":
            _train_tokenizer(config, planned, data, name, device)
        else:
            inputs = {"tokenizer": tokenizer, "text_encoder": text_encoder, "initial": initial}
            _train_transformer(config, planned, data, **inputs, name=name, device=device)


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """On SIGTERM finish the step, save, and exit with 143, as clusters expect; a second SIGTERM kills at once."""
    from bitvar.training.loop import TrainingStoppedError

    terminated = threading.Event()

    def terminate(number: int, frame: object) -> None:
        terminated.set()
        signal.signal(number, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated.is_set
    except TrainingStoppedError as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(TERMINATED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_recipe(path: Path) -> "TokenizerTraining | TransformerTraining":
    from bitvar.errors import UsageError, explain
    from bitvar.training.config import TokenizerTraining, TransformerTraining

    if not path.is_file():
        raise UsageError(
            explain(f"There is no recipe {path}.", "the file is missing", "see recipes/ for those that ship")
        )
    config = runpy.run_path(str(path)).get("recipe", lambda: None)()
    if not isinstance(config, TokenizerTraining | TransformerTraining):
        raise UsageError(
            explain(f"{path} is no recipe.", "it has no function recipe() that returns a configuration", "write one")
        )
    return config


def _plan(config: "TokenizerTraining | TransformerTraining", out: Path, stop: Callable[[], bool]) -> "Run":
    from bitvar.training.loop import Run

    return Run(
        out,
        config.dump(),
        config.optimization,
        config.intervals,
        stop=stop,
        report=lambda line: typer.echo(line, err=True),
    )


def _train_tokenizer(config: "TokenizerTraining", planned: "Run", data: Path, name: str, device: str) -> None:
    from bitvar.data.samples import load_images, read_samples
    from bitvar.runtime.placement import resolve_device
    from bitvar.training.export import save_tokenizer
    from bitvar.training.loop import run
    from bitvar.training.tokenizer_task import TokenizerModels, TokenizerTask

    images, validation = (load_images(read_samples(data, split=split)) for split in ("train", "val"))
    task = TokenizerTask(config, images=images, validation=validation, device=resolve_device(device))
    models = run(task, planned)
    assert isinstance(models, TokenizerModels)
    save_tokenizer(models.tokenizer, planned.folder / "model", name=name)
    typer.echo(str(planned.folder / "model"))


def _train_transformer(
    config: "TransformerTraining",
    planned: "Run",
    data: Path,
    *,
    tokenizer: Path | None,
    text_encoder: Path | None,
    initial: str | None,
    name: str,
    device: str,
) -> None:
    from dataclasses import replace

    import torch

    from bitvar.checkpoints.folder import Components, ModelIndex, TokenizerIdentity, check_pair, load_component
    from bitvar.checkpoints.hub import resolve_model
    from bitvar.errors import UsageError, explain
    from bitvar.pipeline import InfinityPipeline
    from bitvar.runtime.placement import resolve_device
    from bitvar.text import MINILM, load_text_encoder
    from bitvar.tokenizer import InfinityTokenizer
    from bitvar.training.loop import run
    from bitvar.training.prepare import features_key, prepare
    from bitvar.training.samples import sample_grid
    from bitvar.training.state import is_checkpoint, load_initial
    from bitvar.training.transformer_task import TransformerTask
    from bitvar.transformer import InfinityTransformer

    start = None if initial is None else resolve_model(None if initial == "icons" else initial)
    if start is not None and not is_checkpoint(start):
        tokenizer, text_encoder = tokenizer or start / "image_tokenizer", text_encoder or start / "text_encoder"
    if tokenizer is None or text_encoder is None:
        raise UsageError(
            explain(
                "A transformer run needs --tokenizer and --text-encoder, or a model to --init from.",
                "it learns to predict that tokenizer's bits from that encoder's features",
                "train the tokenizer first, and give its OUT/model",
            )
        )
    identity = TokenizerIdentity.load(tokenizer / "identity.json")
    if start is not None and not is_checkpoint(start):
        check_pair(ModelIndex.load(start / "model_index.json").tokenizer, identity)
    chosen = resolve_device(device)
    image_tokenizer = load_component(InfinityTokenizer, tokenizer).to(chosen)
    encoder = load_text_encoder(text_encoder, settings=MINILM).to(chosen)
    key = features_key(identity.sha256, encoder, text_encoder)
    planned.folder.mkdir(parents=True, exist_ok=True)
    train_set, validation = (
        prepare(
            data,
            split,
            tokenizer=image_tokenizer,
            text_encoder=encoder,
            cache=planned.folder / f"features-{split}.safetensors",
            key=key,
            report=lambda line: typer.echo(line, err=True),
        )
        for split in ("train", "val")
    )

    def pipeline(model: torch.nn.Module) -> InfinityPipeline:
        assert isinstance(model, InfinityTransformer)
        index = ModelIndex(name=name, tokenizer=identity)
        return InfinityPipeline(Components(model, image_tokenizer, encoder, index, f"# {name}\n"))

    task = TransformerTask(config, train=train_set, validation=validation, device=chosen)
    if start is not None:
        load_initial(task.model, start)
    model = run(task, replace(planned, sample=lambda model, path: sample_grid(pipeline(model), path)))
    pipeline(model).save_pretrained(planned.folder / "model")
    typer.echo(str(planned.folder / "model"))
