"""`bitvar train RECIPE`: the command. What it puts together is in `training_setup`."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bitvar.cli.exit_codes import CANCELLED, OK, TERMINATED, exit_codes

if TYPE_CHECKING:
    from bitvar.training.config import TokenizerTraining, TransformerTraining


@dataclass(frozen=True)
class Inputs:
    """What a run is given beside its configuration: how it runs, not what it learns, and where things are."""

    data: Path | None
    out: Path | None
    name: str
    device: str
    tokenizer: str | None
    text_encoder: str | None
    initial: str | None
    extend: bool
    shards: int | None
    micro_batch_size: int | None
    activation_checkpointing: bool
    compiled: bool
    attention: str
    workers: int
    max_bad_fraction: float
    tracker: str | None


def train(
    recipe: Annotated[Path, typer.Argument(help="A Python file whose function `recipe()` returns the configuration.")],
    data: Annotated[
        Path | None, typer.Option(help="A captioned set (`bitvar data icons | import`), or a `bitvar data index`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. The same command again resumes it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override: optimization.steps=1000")] = None,
    arguments: Annotated[list[str] | None, typer.Option("--recipe-arg", help="Argument of recipe(): size=2B")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The trained tokenizer: a folder, a hub id, or a name such as general. Default: --init's."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="A MiniLM or T5 text encoder: its folder, or that of a model. Default: the one of --init."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Begin from this model, tokenizer (folder, hub id, name in the package) or checkpoint.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model that comes out. Default: that of the folder --out.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Go on with more optimization.steps than the run had.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the configuration, and stop.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Print the memory and work it needs, what to change, and stop.")
    ] = False,
    device_gib: Annotated[
        float | None, typer.Option("--device-gib", min=0, help="For --fit: memory of the device it will run on.")
    ] = None,
    processes: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, one a device.")] = 1,
    supervised: Annotated[
        bool, typer.Option("--supervise", help="Start again from the last checkpoint on failure.")
    ] = False,
    hang_seconds: Annotated[
        float, typer.Option(min=1, help="Without progress, a supervised run counts as hung.")
    ] = 600,
    shards: Annotated[
        int | None, typer.Option(min=1, help="DistributedContext that share one copy of the model. Default: all.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples at once on a rank. Default: its whole share.")
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="Less memory: make activations again when needed.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Through torch.compile, block by block.")] = False,
    attention: Annotated[str, typer.Option(help="sdpa, or flex: FlexAttention, for CUDA.")] = "sdpa",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images ahead, from an index.")] = 2,
    max_bad_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Of samples that can't be read, from an index.")
    ] = 0.01,
    tracker: Annotated[str | None, typer.Option(help="tensorboard, wandb or trackio, beside metrics.jsonl.")] = None,
) -> None:
    """Train a tokenizer or a transformer by a recipe; rerun the command to resume."""
    with exit_codes(), _stoppable() as stop:
        from bitvar.cli.names import name_for
        from bitvar.training import assemble

        _require_both(data, out, needed=not (dry_run or fit))
        name = name_for(out or Path("model"), name)
        config = assemble.read_recipe(recipe, arguments or []).override(settings or [])
        inputs = Inputs(
            data, out, name, device, tokenizer, text_encoder, initial, extend, shards, micro_batch_size,
            activation_checkpointing, compiled, attention, workers, max_bad_fraction, tracker,
        )  # fmt: skip
        if dry_run:
            from bitvar.training.checks import rehearse

            rehearse(config, inputs, processes)
            typer.echo(config.dump())
        elif fit:
            from bitvar.training.fit import describe_fit

            typer.echo(describe_fit(config, inputs, processes, device_gib))
        elif (supervised or processes > 1) and not assemble.is_child():
            from bitvar.training.checks import check_run

            assert out is not None
            check_run(config, inputs, processes)
            _supervise(out, processes, stop, hang_seconds=hang_seconds, restarts=supervised)
        else:
            _train(config, inputs, stop)


def _require_both(data: Path | None, out: Path | None, *, needed: bool) -> None:
    """Complain of what is missing, if it is needed."""
    from bitvar.errors import UsageError

    missing = [name for name, value in (("--data", data), ("--out", out)) if value is None]
    if missing and needed:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        why, todo = f"{' and '.join(missing)} {verb} missing", f"add {them}, or ask with --fit or --dry-run first"
        raise UsageError("A run needs --data and --out.", why, todo)


def _train(config: "TokenizerTraining | TransformerTraining", inputs: Inputs, stop: Callable[[], bool]) -> None:
    from bitvar.cli.names import printable
    from bitvar.training import assemble
    from bitvar.training.engine import distributed

    made = assemble.train(config, inputs, stop)
    if made is not None:
        typer.echo(printable(made))
    distributed.disconnect()
    if _is_rank():
        _leave(OK)


def _is_rank() -> bool:
    """Whether this is one of several processes."""
    return "RANK" in os.environ


def _leave(code: int) -> NoReturn:
    """End a rank at once: the threads it talked to the others with sometimes abort a process that ends otherwise."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _supervise(out: Path, processes: int, stop: Callable[[], bool], *, hang_seconds: float, restarts: bool) -> None:
    """Run this very command in processes of its own, and keep them alive."""
    from bitvar.training.engine.retention import step_reached
    from bitvar.training.engine.supervisor import Plan, supervise

    command = [sys.executable, "-m", "bitvar.cli.main", *sys.argv[1:]]
    plan = Plan(command, processes, out, dict(os.environ), hang_seconds=hang_seconds, restart=restarts)
    try:
        code = supervise(plan, stop=stop, log=lambda line: typer.echo(line, err=True))
    except KeyboardInterrupt:
        reached = step_reached(out)
        where = f"step {reached}, the last that was saved" if reached else "the beginning"
        typer.echo(f"Stopped; the same command resumes from {where}.", err=True)
        raise typer.Exit(CANCELLED) from None
    if code:
        raise typer.Exit(code)


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """On SIGTERM finish the step, save, and exit with 143, as clusters expect; a second SIGTERM kills at once."""
    from bitvar.training.engine.loop import TrainingInterrupted, TrainingStoppedError

    terminated = threading.Event()
    signals = [signal.SIGTERM]
    if _is_rank():  # Ctrl-C reaches every rank: they must stop at the same step
        signals.append(signal.SIGINT)

    def terminate(number: int, frame: object) -> None:
        terminated.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, terminate) for number in signals}
    try:
        yield terminated.is_set
    except TrainingStoppedError as stopped:
        typer.echo(str(stopped), err=True)
        if _is_rank():
            _leave(TERMINATED)
        raise typer.Exit(TERMINATED) from None
    except TrainingInterrupted as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(CANCELLED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
