"""`bitvar train RECIPE`: options, signals and exit codes. `training/assemble.py` puts the run together."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bitvar.cli.exit_codes import CANCELLED, OK, TERMINATED, exit_codes

if TYPE_CHECKING:
    from bitvar.training.options import Launch


def train(
    recipe: Annotated[Path, typer.Argument(help="A Python file whose function `recipe()` returns the configuration.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A captioned set (`bitvar data import`), an index (`bitvar data index`) or, for a tokenizer, a folder"
            " of images."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Repeat the command to resume it.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as optimization.steps=1000.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--recipe-arg", help="Argument of recipe(), such as size=2B.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Trained tokenizer: a folder, a hub id, or a name such as general. Default: --init's."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="MiniLM or T5 text encoder: its folder, or that of a model. Default: --init's."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Start from this model or tokenizer (a folder, a hub id, or a name in the package) or checkpoint.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model that comes out. Default: the name of the folder --out.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Resume a run that was configured for fewer optimization.steps.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the configuration, and stop.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Print the memory and work that the run needs and what to change, and stop.")
    ] = False,
    device_gib: Annotated[
        float | None,
        typer.Option("--device-gib", min=0, help="For --fit: memory of the device that the run is meant for, in GiB."),
    ] = None,
    processes: Annotated[
        int, typer.Option("--nproc", min=1, help="Number of processes on this machine, one for each device.")
    ] = 1,
    supervised: Annotated[
        bool, typer.Option("--supervise", help="After a failure, start again from the last checkpoint.")
    ] = False,
    hang_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds without progress after which a supervised run counts as hung.")
    ] = 600,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of ranks that share one copy of the model. Default: all.")
    ] = None,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            "--micro-batch", min=1, help="Samples that a rank computes at once. Default: its share of the batch."
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option("--activation-checkpointing", help="Recompute activations in the backward pass, to save memory."),
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the model block by block.")] = False,
    attention: Annotated[str, typer.Option(help="sdpa, or flex: FlexAttention, for CUDA.")] = "sdpa",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read the images of an index ahead.")] = 2,
    max_bad_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unreadable samples of an index above which the run stops.")
    ] = 0.01,
    tracker: Annotated[str | None, typer.Option(help="Also send metrics to tensorboard, wandb or trackio.")] = None,
) -> None:
    """Train a tokenizer or a transformer by a recipe; repeat the command to resume."""
    with exit_codes(), _stoppable() as stop:
        from bitvar.cli.echo import say
        from bitvar.cli.training_display import Display
        from bitvar.training import assemble
        from bitvar.training.checks import check_folders, check_options
        from bitvar.training.fit import describe_fit
        from bitvar.training.model_names import choose_name
        from bitvar.training.options import FrozenModels, Loading, Placement, Reporting, RunPaths
        from bitvar.training.recipes import configure

        launch = _read_launch(processes)
        _require_both(data, out, needed=not (dry_run or fit))
        name = choose_name(out or Path("model"), name)
        config = configure(recipe, arguments=arguments or (), settings=settings or ())
        models = FrozenModels(tokenizer=tokenizer, text_encoder=text_encoder, initial=initial)
        placement = Placement(
            device=device, shards=shards, micro_batch_size=micro_batch_size,
            activation_checkpointing=activation_checkpointing, compile=compiled, attention=attention,
        )  # fmt: skip
        loading = Loading(workers=workers, max_bad_fraction=max_bad_fraction)
        if dry_run:
            assemble.dry_run(
                config, data=data, out=out, extend=extend, models=models, placement=placement, loading=loading,
                tracker=tracker, world=launch.world,
            )  # fmt: skip
            typer.echo(config.dump())
            return
        if fit:
            typer.echo(
                describe_fit(config, models=models, placement=placement, world=launch.world, device_gib=device_gib)
            )
            return
        assert data is not None
        assert out is not None
        if (supervised or processes > 1) and not launch.is_child:
            check_options(config, placement=placement, tracker=tracker, world=launch.world)
            check_folders(config, data=data, out=out, extend=extend)
            _supervise(out, processes, stop, hang_seconds=hang_seconds, restarts=supervised)
            return
        display = Display(config.optimization.steps, quiet=not launch.is_main)
        with contextlib.closing(display):
            made = assemble.run_training(
                config,
                paths=RunPaths(data=data, out=out, name=name, extend=extend),
                models=models,
                placement=placement,
                loading=loading,
                reporting=Reporting(log=display.log, on_step=display.on_step, tracker=tracker),
                launch=launch,
                stop=stop,
            )
        if launch.is_main:
            say(str(made))
        if launch.rank is not None:
            _leave(OK)


def _is_rank() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ


def _read_launch(processes: int) -> "Launch":
    """Read what a launcher or a supervisor says of this process; alone, it stands for the processes asked for."""
    from bitvar.training.engine.supervisor import HEARTBEAT
    from bitvar.training.options import Launch

    environment = os.environ
    return Launch(
        rank=int(environment["RANK"]) if _is_rank() else None,
        world=int(environment.get("WORLD_SIZE", processes)),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        heartbeat=Path(environment[HEARTBEAT]) if HEARTBEAT in environment else None,
    )


def _require_both(data: Path | None, out: Path | None, *, needed: bool) -> None:
    """Refuse a run without data or output folder, if they are needed."""
    from bitvar.errors import UsageError

    missing = [name for name, value in (("--data", data), ("--out", out)) if value is None]
    if missing and needed:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        why, fix = f"{' and '.join(missing)} {verb} missing", f"add {them}, or ask with --fit or --dry-run first"
        raise UsageError("A run needs --data and --out.", why, fix)


def _leave(code: int) -> NoReturn:
    """End a rank at once: the threads of its process group sometimes abort a process that exits normally."""
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
