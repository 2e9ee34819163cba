"""Estimating whether a run fits into memory, and how much work it is, before it is started."""

import os
from pathlib import Path

import torch

from bitvar.costs.flops import num_parameters
from bitvar.costs.training_memory import GIB, LONG_TEXT, MemoryPlan, advice, describe, estimate_memory
from bitvar.errors import UsageError
from bitvar.runtime.placement import resolve_device
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.expected_work import CARD, UTILIZATION, ExpectedWork, expected_work, longest_schedule
from bitvar.training.frozen_models import find_text_encoder_folder, find_tokenizer_folder
from bitvar.training.options import FrozenModels, Placement


def describe_fit(
    config: TokenizerTraining | TransformerTraining,
    *,
    models: FrozenModels,
    placement: Placement,
    world: int,
    device_gib: float | None = None,
) -> str:
    """Describe a rank's peak memory, what to change if that is too much, and the work of the whole run.

    Args:
        config: Configuration of the run.
        models: The models that it builds on.
        placement: How it uses its devices.
        world: Number of ranks.
        device_gib: Memory of each rank's device in GiB; that of this machine's device if None.

    Raises:
        UsageError: For a tokenizer's configuration.
    """
    if config.kind == "tokenizer":
        raise UsageError("--fit knows transformers only.", "this recipe trains a tokenizer", "just start it")
    plan = _plan_memory(config, models, placement, world)
    estimate = estimate_memory(plan)
    available = device_gib * GIB if device_gib is not None else _device_bytes(placement.device)
    lines = [
        f"{num_parameters(config.model):,} parameters; {world} rank{'s' * (world > 1)}, each with {plan.batch_size}"
        f" samples of up to {plan.schedule.num_tokens:,} tokens at once, in {plan.precision}",
        describe(estimate),
        f"of {available / GIB:.1f} GiB: " + ("fits" if estimate.total <= available else "does not fit"),
        *(f"  {line}" for line in advice(plan, int(available))),
        _describe_work(expected_work(config)),
    ]
    return "\n".join(lines)


def _plan_memory(config: TransformerTraining, models: FrozenModels, placement: Placement, world: int) -> MemoryPlan:
    """What decides the run's memory, on its longest schedule."""
    optimization = config.optimization
    return MemoryPlan(
        model=config.model,
        schedule=longest_schedule(config),
        batch_size=placement.micro_batch_size or max(1, optimization.batch_size // world),
        precision=optimization.precision,
        optimizer=optimization.optimizer,
        text_tokens=min(LONG_TEXT, config.model.max_text_tokens),
        shards=placement.shards or world,
        activation_checkpointing=placement.activation_checkpointing,
        lora_rank=None if config.lora is None else config.lora.rank,
        frozen=_frozen_bytes(models),
    )


def _frozen_bytes(models: FrozenModels) -> int:
    """Bytes of the tokenizer's and the text encoder's weights, where these are given by themselves."""
    folders = [] if models.tokenizer is None else [find_tokenizer_folder(models.tokenizer)]
    if models.text_encoder is not None:
        folders.append(find_text_encoder_folder(models.text_encoder))
    return sum(map(_weights_bytes, folders))


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _device_bytes(name: str) -> float:
    """Free memory of a CUDA device, or else the memory of this machine."""
    device = resolve_device(name)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _describe_work(expected: ExpectedWork) -> str:
    """Describe the operations of the run, the hours of a known card, and what these count."""
    height, width = expected.schedule[-1]
    return (
        f"{expected.flops_per_sample / 1e12:.3g} teraflop a sample, {expected.samples:,} samples:"
        f" {_rounded(expected.hours)} hours of one {CARD} at {UTILIZATION:.0%} of its peak\n"
        f"  memory is counted with the longest schedule, work with the square of {height} x {width}"
        f" ({expected.schedule.num_tokens:,} tokens), both with {expected.text_tokens} tokens of text;"
        " recomputed activations (a third more) and frozen encoders are not in the hours"
    )


def _rounded(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
