"""What `bitvar bench train` times: the tasks of real runs, on random data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bitvar.config import unknown
from bitvar.costs.devices import model_flops_utilization
from bitvar.costs.flops import num_parameters
from bitvar.errors import UsageError
from bitvar.metrics.distances import perceptual_distance
from bitvar.official_schedules import SQUARES, official_schedule
from bitvar.runtime.attention import attention_fns
from bitvar.scales import ScaleSchedule
from bitvar.training.config import OptimizationConfig, TokenizerTraining, TransformerTraining
from bitvar.training.expected_work import sample_flops, typical_text_tokens
from bitvar.training.recipes import read_recipe
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.task import TokenizerTask
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet, TransformerTask
from bitvar.transformer import PRESETS, ScheduleConfig


class Timed(NamedTuple):
    """A task ready for its steps.

    Attributes:
        task: of a run.
        lightened: the parts that `--activation-checkpointing` and `--compile` are for.
        sizes: what to print of it.
        rates: seconds of a step -> what else to print.
    """

    task: TransformerTask | TokenizerTask
    lightened: Sequence[nn.Module]
    sizes: dict[str, Any]
    rates: Callable[[float], dict[str, Any]]


def read_config(
    recipe: Path | None, preset: str | None, batch: int | None, dtype: str | None
) -> TransformerTraining | TokenizerTraining:
    """A recipe's settings, or a preset's with AdamW; `batch` and `dtype` in place of its own.

    Raises:
        UsageError: for neither or both, and for an unknown preset.
    """
    if (recipe is None) == (preset is None):
        raise UsageError("What shall be timed?", "one of --recipe and --preset is needed", "give one")
    if recipe is not None:
        config = read_recipe(recipe, [])
    elif preset in PRESETS:
        optimization = OptimizationConfig(steps=10**6, batch_size=8, learning_rate=1e-4)
        config = TransformerTraining(model=PRESETS[preset], optimization=optimization)
    else:
        raise UsageError(unknown(f"preset {preset!r}", str(preset), list(PRESETS)))
    changes = {"batch_size": batch, "precision": dtype}
    return config.override([f"optimization.{name}={value}" for name, value in changes.items() if value is not None])


def timed_transformer(config: TransformerTraining, pixels: int | None, attention: str, device: torch.device) -> Timed:
    """A transformer on random features and texts, on the largest of its schedules, or on that of a square image."""
    schedule = max(config.schedules, key=lambda schedule: schedule.num_tokens)
    if pixels is not None:
        schedule = official_schedule("1.0", budget_of(pixels))
    own = ScheduleConfig(grids=schedule.grids, reference=schedule.reference)
    model = config.model.model_copy(update={"budgets": (), "schedules": (own,)})
    config = config.model_copy(update={"model": model})
    data = _random_features(config, schedule)
    functions = attention_fns(config.schedules, attention, device)
    task = TransformerTask(config, train=data, validation=data, device=device, attention_fns=functions)
    batch = config.optimization.batch_size
    operations = sample_flops(config, schedule) * batch

    def rates(step: float) -> dict[str, Any]:
        return {
            "tokens_per_second": round(batch * schedule.num_tokens / step, 1),
            "teraflops": round(operations / step / 1e12, 4),
            "utilization": _utilization(device, operations / step),
        }

    return Timed(task, task.fsdp_units, {"parameters": num_parameters(model), "tokens": schedule.num_tokens}, rates)


def timed_tokenizer(config: TokenizerTraining, attention: str, device: torch.device) -> Timed:
    """A tokenizer on random images of the largest of its sizes, its adversary playing from the start."""
    if attention != "sdpa":
        raise UsageError("A tokenizer takes no --attention.", "it has none", "leave it out")
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

    return Timed(task, tokenizer.levels, sizes, rates)


def budget_of(pixels: int) -> str:
    """The pixel budget of a square image.

    Raises:
        UsageError: for a side that has none.
    """
    if pixels not in SQUARES:
        raise UsageError(f"There is no schedule of {pixels} px.", f"known: {list(SQUARES)}", "choose one")
    return SQUARES[pixels]


def _random_features(config: TransformerTraining, schedule: ScaleSchedule) -> FeatureSet:
    model, count = config.model, config.optimization.batch_size
    generator = torch.Generator().manual_seed(0)
    h, w = schedule.latent_grids(model.patch_size)[-1]
    features = torch.randn(count, model.bits // model.patch_size**2, h, w, generator=generator)
    tokens = typical_text_tokens(config)
    texts = CaptionFeatures(torch.randn(tokens, model.text_width, generator=generator), torch.tensor([0, tokens]))
    return FeatureSet(features, texts, [[0]] * count)


def _utilization(device: torch.device, operations: float) -> float | None:
    if device.type != "cuda":
        return None
    share = model_flops_utilization(operations, torch.cuda.get_device_name(device))
    return None if share is None else round(share, 4)
