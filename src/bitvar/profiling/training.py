"""The speed of training: whole steps of real tasks on random data."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bitvar.config import unknown
from bitvar.costs.devices import peak_flops
from bitvar.costs.flops import num_parameters
from bitvar.data.order import SampleOrder
from bitvar.errors import UsageError
from bitvar.metrics.distances import perceptual_distance
from bitvar.official_schedules import SQUARES, official_schedule
from bitvar.profiling.clock import Clock, peak_memory
from bitvar.runtime.attention import attention_fns
from bitvar.runtime.compile import compile_blocks
from bitvar.scales import ScaleSchedule
from bitvar.training.config import OptimizationConfig, TokenizerTraining, TransformerTraining
from bitvar.training.engine.checkpoint import TrainState
from bitvar.training.engine.distributed import DistributedContext, distribute
from bitvar.training.engine.microbatch import micro_batches_of
from bitvar.training.engine.optim import Ema, build_optimizer
from bitvar.training.engine.update import Updater
from bitvar.training.expected_work import longest_schedule, sample_flops, typical_text_tokens
from bitvar.training.recipes import read_recipe
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.task import TokenizerTask
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet, TransformerTask
from bitvar.transformer import PRESETS, ScheduleConfig

WARM_UP_STEPS = 2


class TimedTask(NamedTuple):
    """A task ready to be timed.

    Attributes:
        task: Task of a real run.
        blocks: Modules that activation checkpointing and compilation apply to.
        sizes: Sizes to print, by name.
        rates: Returns further rates to print, given the seconds of a step.
    """

    task: TransformerTask | TokenizerTask
    blocks: Sequence[nn.Module]
    sizes: dict[str, Any]
    rates: Callable[[float], dict[str, Any]]


@dataclass(frozen=True)
class TrainingSpeed:
    """Result of `measure_training`.

    Attributes:
        sizes: Sizes of the model and its inputs, by name.
        batch_size: Samples in a step.
        step_s: Median seconds of a step.
        rates: Throughput by name, such as tokens per second.
        peak_memory_mb: Peak memory of the device on CUDA, of the process elsewhere.
    """

    sizes: dict[str, Any]
    batch_size: int
    step_s: float
    rates: dict[str, Any]
    peak_memory_mb: float

    @property
    def samples_per_second(self) -> float:
        return self.batch_size / self.step_s


def measure_training(
    config: TransformerTraining | TokenizerTraining,
    device: torch.device,
    *,
    pixels: int | None = None,
    attention: str = "sdpa",
    activation_checkpointing: bool = False,
    compiled: bool = False,
    runs: int = 10,
) -> TrainingSpeed:
    """Time whole training steps on random data: loss, gradients, optimizer and weight averaging.

    Args:
        config: Configuration of the run to time.
        device: Device to train on.
        pixels: Side of a square image for a transformer; None for the schedule with the most tokens.
        attention: Attention implementation of a transformer, "sdpa" or "flex".
        activation_checkpointing: Whether to recompute activations in the backward pass.
        compiled: Whether to compile the blocks with torch.compile.
        runs: Number of timed steps, after two to warm up.
    """
    if isinstance(config, TransformerTraining):
        timed = timed_transformer(config, pixels, attention, device)
    else:
        timed = timed_tokenizer(config, attention, device)
    task, optimization, model = timed.task, config.optimization, timed.task.model
    compile_blocks(timed.blocks, activation_checkpointing=activation_checkpointing, compiled=compiled)
    distribute(model, task.fsdp_units, DistributedContext(), precision=task.dtype, device=device)
    state = TrainState(model, Ema(model, optimization.ema_decay), build_optimizer(model, optimization))
    order = SampleOrder(task.counts, optimization.batch_size, 0)
    batches = task.batches(micro_batches_of(order, range(runs + WARM_UP_STEPS)))
    updater = Updater(state, task.loss, optimization)
    clock, seconds = Clock(device), list[float]()
    for _ in range(runs + WARM_UP_STEPS):
        updater.step(batches)
        seconds.append(clock.lap())
    step = statistics.median(seconds[WARM_UP_STEPS:])
    return TrainingSpeed(timed.sizes, optimization.batch_size, step, timed.rates(step), peak_memory(device))


def read_config(
    recipe: Path | None, preset: str | None, batch: int | None, dtype: str | None
) -> TransformerTraining | TokenizerTraining:
    """Read a recipe's configuration, or build a preset's with AdamW.

    Args:
        recipe: Path of the recipe; None to use a preset.
        preset: Name of a transformer preset; None to use a recipe.
        batch: Samples in a step; None for the configuration's own.
        dtype: Precision of the activations; None for the configuration's own.

    Raises:
        UsageError: If neither or both of recipe and preset are given, or the preset is unknown.
    """
    if (recipe is None) == (preset is None):
        raise UsageError("What shall be timed?", "one of --recipe and --preset is needed", "give one of them")
    if recipe is not None:
        config = read_recipe(recipe, [])
    elif preset in PRESETS:
        optimization = OptimizationConfig(steps=10**6, batch_size=8, learning_rate=1e-4)
        config = TransformerTraining(model=PRESETS[preset], optimization=optimization)
    else:
        raise UsageError(unknown(f"preset {preset!r}", str(preset), list(PRESETS)))
    changes = {"batch_size": batch, "precision": dtype}
    return config.override([f"optimization.{name}={value}" for name, value in changes.items() if value is not None])


def timed_transformer(
    config: TransformerTraining, pixels: int | None, attention: str, device: torch.device
) -> TimedTask:
    """Build a transformer task on random features and texts, for one schedule.

    Args:
        config: Configuration of the run.
        pixels: Side of a square image; None for the schedule with the most tokens.
        attention: Attention implementation, "sdpa" or "flex".
        device: Device to train on.
    """
    schedule = longest_schedule(config) if pixels is None else official_schedule("1.0", budget_of(pixels))
    own = ScheduleConfig(grids=schedule.grids, reference=schedule.reference)
    model = config.model.model_copy(update={"budgets": (), "schedules": (own,)})
    config = config.model_copy(update={"model": model})
    data = _random_features(config, schedule)
    functions = attention_fns(config.schedules, attention, device)
    task = TransformerTask(config, train=data, validation=data, device=device, attention_fns=functions)
    batch = config.optimization.batch_size
    flops, peak = sample_flops(config, schedule) * batch, peak_flops(device)

    def rates(step: float) -> dict[str, Any]:
        return {
            "tokens_per_second": round(batch * schedule.num_tokens / step, 1),
            "teraflops": round(flops / step / 1e12, 4),
            "utilization": None if peak is None else round(flops / step / peak, 4),
        }

    sizes = {"parameters": num_parameters(model), "tokens": schedule.num_tokens}
    return TimedTask(task, task.fsdp_units, sizes, rates)


def timed_tokenizer(config: TokenizerTraining, attention: str, device: torch.device) -> TimedTask:
    """Build a tokenizer task on random images of its largest size, with the discriminator active from the start.

    Args:
        config: Configuration of the run.
        attention: Must be "sdpa": a tokenizer has no attention to choose.
        device: Device to train on.
    """
    if attention != "sdpa":
        raise UsageError("A tokenizer takes no --attention.", "it has no attention", "leave it out")
    grids = max(config.schedules, key=lambda grids: grids[-1][0] * grids[-1][1])
    height, width = (side * config.model.stride for side in grids[-1])
    config = config.model_copy(update={"schedules": (grids,), "adversarial_start": 0})
    batch, channels = config.optimization.batch_size, config.model.image_channels
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, channels, height, width), generator=generator, dtype=torch.uint8)
    perceptual = perceptual_distance(config.perceptual_network, device) if config.perceptual > 0 else None
    data = ImageSet(images)
    task = TokenizerTask(config, train=data, validation=data, perceptual=perceptual, device=device)
    tokenizer = task.model.tokenizer
    parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
    sizes = {"parameters": parameters, "width": width, "height": height}

    def rates(step: float) -> dict[str, Any]:
        return {"megapixels_per_second": round(batch * height * width / step / 1e6, 4)}

    return TimedTask(task, tokenizer.levels, sizes, rates)


def budget_of(pixels: int) -> str:
    """Return the official pixel budget of a square image with this side.

    Raises:
        UsageError: If there is no schedule for this side.
    """
    if pixels not in SQUARES:
        raise UsageError(f"There is no schedule of {pixels} px.", f"known: {list(SQUARES)}", "choose one of them")
    return SQUARES[pixels]


def _random_features(config: TransformerTraining, schedule: ScaleSchedule) -> FeatureSet:
    model, count = config.model, config.optimization.batch_size
    generator = torch.Generator().manual_seed(0)
    h, w = schedule.latent_grids(model.patch_size)[-1]
    features = torch.randn(count, model.bits // model.patch_size**2, h, w, generator=generator)
    tokens = typical_text_tokens(config)
    texts = CaptionFeatures(torch.randn(tokens, model.text_width, generator=generator), torch.tensor([0, tokens]))
    return FeatureSet(features, texts, [[0]] * count)
