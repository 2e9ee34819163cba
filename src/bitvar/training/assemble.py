"""Assembling a training run from a recipe and options: `train` for Python, `run_training` for the command."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch

from bitvar import arguments
from bitvar.config import unknown
from bitvar.costs.devices import peak_flops
from bitvar.errors import UsageError
from bitvar.runtime.placement import resolve_device
from bitvar.training.checks import check_folders, check_options
from bitvar.training.config import OptimizationConfig, TokenizerTraining, TransformerTraining
from bitvar.training.engine import distributed
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import TrainerConfig
from bitvar.training.engine.metrics_log import from_one
from bitvar.training.engine.retention import step_reached
from bitvar.training.export import result_folder
from bitvar.training.model_names import choose_name
from bitvar.training.monitor.trackers import Tracker, make_tracker
from bitvar.training.options import (
    FrozenModels,
    Launch,
    Loading,
    Placement,
    Reporting,
    RunPaths,
    TrainingKwargs,
    ignore_line,
)
from bitvar.training.recipes import configure
from bitvar.training.tokenizer import assemble as tokenizer_run
from bitvar.training.transformer import assemble as transformer_run
from bitvar.weights.digests import require_replaceable


def train(
    recipe: str | Path | TransformerTraining | TokenizerTraining,
    *,
    data: str | Path,
    out: str | Path,
    name: str | None = None,
    extend: bool = False,
    settings: Sequence[str] | Mapping[str, Any] = (),
    recipe_args: Sequence[str] | Mapping[str, Any] = (),
    log: Callable[[str], None] | None = None,
    **options: Unpack[TrainingKwargs],
) -> Path:
    """Train a tokenizer or a transformer, as `bitvar train` does; call again to resume.

    An interrupted or killed run resumes from its last checkpoint, and a finished one returns at once. Trains in this
    process; to train on several devices, start the script with torchrun and give `launch`, or use the command.

    Args:
        recipe: Configuration, or a Python file whose function `recipe()` returns one.
        data: Captioned set, index or, for a tokenizer, folder of images.
        out: Folder of the run.
        name: Name of the model that comes out; the name of the folder `out` if None.
        extend: Resume a run that was configured for fewer `optimization.steps`.
        settings: Changes to the configuration: `{"optimization.steps": 1000}` or `["optimization.steps=1000"]`.
        recipe_args: Arguments of the function `recipe()`: `{"size": "2B"}` or `["size=2B"]`.
        log: Receives a line of text for people, for example `print`; None for a silent run.
        **options: `tokenizer`, `text_encoder` and `init` name the models that the run builds on (see `FrozenModels`);
            `device`, `shards`, `micro_batch_size`, `activation_checkpointing`, `compile` and `attention` place it (see
            `Placement`); `workers` and `max_bad_fraction` are for reading data (see `Loading`); `tracker` names a
            service that receives metrics (see `Reporting`); `launch` is this process's rank (see `Launch`).

    Returns:
        Folder of the result: OUT/model, or OUT/lora for adapters.

    Raises:
        UsageError: If the recipe, an option or the data can't be used, or the run in `out` is another one.
        WeightsError: If files of a model or of every checkpoint are missing or altered.
        TrainingDivergedError: If loss or gradient is not finite.
        TrainingInterrupted: After Ctrl-C, with the state saved where possible.
    """
    if unexpected := sorted(set(options) - set(TrainingKwargs.__annotations__)):
        known = ["name", "extend", "settings", "recipe_args", "log", *TrainingKwargs.__annotations__]
        raise UsageError(unknown(f"option {unexpected[0]!r} of train()", unexpected[0], known))
    given: dict[str, Any] = dict(options)
    launch = options.get("launch", Launch())
    folder = Path(arguments.checked("out", out, arguments.path))
    return run_training(
        configure(recipe, arguments=recipe_args, settings=settings),
        paths=RunPaths(
            data=Path(arguments.checked("data", data, arguments.path)),
            out=folder,
            name=choose_name(folder, name),
            extend=extend,
        ),
        models=FrozenModels(
            tokenizer=options.get("tokenizer"), text_encoder=options.get("text_encoder"), initial=options.get("init")
        ),
        placement=Placement(**{key: given[key] for key in Placement.__dataclass_fields__ if key in given}),
        loading=Loading(**{key: given[key] for key in Loading.__dataclass_fields__ if key in given}),
        reporting=Reporting(
            log=log if log is not None and launch.is_main else ignore_line, tracker=options.get("tracker")
        ),
        launch=launch,
    )


def run_training(
    config: TokenizerTraining | TransformerTraining,
    *,
    paths: RunPaths,
    models: FrozenModels,
    placement: Placement,
    loading: Loading,
    reporting: Reporting,
    launch: Launch,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train to the end.

    Args:
        config: What to train.
        paths: Where the run reads and writes.
        models: The finished models that it builds on.
        placement: How it uses its devices.
        loading: How it reads its data.
        reporting: Where its news go; the main rank's alone reach the tracker.
        launch: This process among those that train together.
        stop: Asked after every step; once true, the run saves and raises `TrainingStoppedError`.

    Returns:
        Folder of the result, on every rank, once the main one has written it.
    """
    check_options(config, placement=placement, tracker=reporting.tracker, world=launch.world)
    check_folders(config, data=paths.data, out=paths.out, extend=paths.extend)
    device, context = _join(placement, launch)
    reporting.log(_describe_batch(config.optimization, placement, context))
    if config.optimization.steps < config.optimization.warmup_steps:
        reporting.log(_describe_short_run(config.optimization))
    tracker = _start_tracker(config, paths, reporting) if context.is_main else None
    trainer = TrainerConfig(
        paths.out,
        config.dump(),
        config.optimization,
        config.intervals,
        extend=paths.extend,
        micro_batch_size=placement.micro_batch_size,
        context=context,
        peak_flops=peak_flops(device),
        stop=stop,
        heartbeat=launch.heartbeat.touch if launch.heartbeat else lambda: None,
        log=reporting.log,
        on_step=reporting.on_step,
        log_metrics=_counted_from_one(tracker.log) if tracker else lambda step, phase, values: None,
        log_image=tracker.log_image if tracker else lambda step, path: None,
    )
    result = result_folder(config, paths.out)
    require_replaceable(result)  # before the work, not after it
    try:
        if config.kind == "tokenizer":
            tokenizer_run.train_tokenizer(
                config, trainer, paths=paths, models=models, placement=placement, loading=loading, device=device
            )
        else:
            transformer_run.train_transformer(
                config, trainer, paths=paths, models=models, placement=placement, loading=loading, device=device
            )
    finally:
        if tracker:
            tracker.close()
    distributed.disconnect()
    return result


def dry_run(
    config: TokenizerTraining | TransformerTraining,
    *,
    data: Path | None,
    out: Path | None,
    extend: bool,
    models: FrozenModels,
    placement: Placement,
    loading: Loading,
    tracker: str | None,
    world: int,
) -> None:
    """Refuse what a run would refuse before its first step, as far as the options given tell. Writes nothing.

    Args:
        config: What to train.
        data: Folder of the data, if given.
        out: Folder of the run, if given.
        extend: Whether the run may have more steps than its checkpoint was made with.
        models: The finished models that the run builds on.
        placement: How it uses its devices.
        loading: How it reads its data.
        tracker: Name of the service that receives its metrics, if any.
        world: Number of ranks.

    Raises:
        UsageError: For the first thing that can't be used.
        WeightsError: If files of a model are missing or altered.
    """
    check_options(config, placement=placement, tracker=tracker, world=world)
    check_folders(config, data=data, out=out, extend=extend)
    if config.kind == "tokenizer":
        tokenizer_run.dry_run(config, data=data, models=models, placement=placement, loading=loading)
    else:
        transformer_run.dry_run(config, data=data, models=models, device=resolve_device(placement.device))


def _join(placement: Placement, launch: Launch) -> tuple[torch.device, DistributedContext]:
    """This process's device and rank: alone, or where a launcher put it."""
    device = resolve_device(placement.device)
    if launch.rank is None:
        return device, DistributedContext()
    if device.type == "cuda":
        device = torch.device("cuda", launch.local_rank)
        torch.cuda.set_device(device)
    return device, distributed.connect(device, rank=launch.rank, world=launch.world, shards=placement.shards)


def _describe_batch(optimization: OptimizationConfig, placement: Placement, context: DistributedContext) -> str:
    """Say how a batch is divided, and that the learning rate is used as it is."""
    share = optimization.batch_size // context.world
    size = min(placement.micro_batch_size or share, share)
    count = max(1, share // size)
    return (
        f"batch {optimization.batch_size} = {context.world} rank{'s' * (context.world > 1)} x {count}"
        f" micro-batch{'es' * (count > 1)} of {size}; peak learning rate {optimization.learning_rate:g} (not scaled by"
        f" batch size); {optimization.optimizer}, activations in {optimization.precision}"
    )


def _describe_short_run(optimization: OptimizationConfig) -> str:
    return (
        f"WARNING: the run has {optimization.steps:,} steps, fewer than its {optimization.warmup_steps:,} of warmup: it"
        " never reaches the peak learning rate\n  do:  lower optimization.warmup_steps"
    )


def _start_tracker(
    config: TokenizerTraining | TransformerTraining, paths: RunPaths, reporting: Reporting
) -> Tracker | None:
    if reporting.tracker is None:
        return None
    return make_tracker(
        reporting.tracker,
        folder=paths.out,
        run_name=paths.name,
        config=config.model_dump(mode="json"),
        step=step_reached(paths.out),
        log=reporting.log,
    )


def _counted_from_one(log: Callable[[int, str, Mapping[str, float]], None]) -> Callable[..., None]:
    """A tracker's `log` that receives metrics of scales under their numbers from 1, as people count them."""
    return lambda step, phase, values: log(step, phase, {from_one(name): value for name, value in values.items()})
