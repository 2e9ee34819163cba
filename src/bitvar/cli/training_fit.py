"""`bitvar train --fit`: what a run needs, before it is started."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bitvar.checkpoints.folder import find_tokenizer
from bitvar.checkpoints.hub import resolve_named
from bitvar.cli.training_parts import find_text_encoder
from bitvar.cli.training_setup import operations_of
from bitvar.errors import UsageError, explain
from bitvar.runtime.placement import resolve_device
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.estimate import GIB, MemoryPlan, advice, describe, estimate_memory
from bitvar.transformer.cost import num_parameters

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs

UTILIZATION = 0.4
"""Share of a card's peak that a good training run reaches; for the expected time only."""

H100_TFLOPS = 989.0


def describe_fit(
    config: TokenizerTraining | TransformerTraining, inputs: "Inputs", processes: int, device_gib: float | None
) -> str:
    """Memory of a rank at the peak of a step, what to change if that is too much, and the work of the whole run."""
    if config.kind == "tokenizer":
        raise UsageError(explain("--fit knows transformers only.", "this recipe trains a tokenizer", "just start it"))
    world = int(os.environ.get("WORLD_SIZE", processes))
    plan = make_plan(config, inputs, world)
    estimate = estimate_memory(plan)
    available = device_gib * GIB if device_gib is not None else _device_bytes(inputs.device)
    lines = [
        f"{num_parameters(config.model):,} parameters; {world} rank{'s' * (world > 1)}, each with {plan.batch_size}"
        f" samples of {plan.schedule.num_tokens} tokens at once, in {plan.precision}",
        describe(estimate),
        f"of {available / GIB:.1f} GiB: " + ("fits" if estimate.total <= available else "does not fit"),
        *(f"  {line}" for line in advice(plan, int(available))),
        _describe_work(config, plan),
    ]
    return "\n".join(lines)


def make_plan(config: TransformerTraining, inputs: "Inputs", world: int) -> MemoryPlan:
    """The run as far as its memory goes, on its largest schedule."""
    optimization = config.optimization
    return MemoryPlan(
        model=config.model,
        schedule=max(config.schedules, key=lambda schedule: schedule.num_tokens),
        batch_size=inputs.per_part or max(1, optimization.batch_size // world),
        precision=optimization.precision,
        optimizer=optimization.optimizer,
        text_tokens=min(128, config.model.max_text_tokens),
        shards=inputs.shards or world,
        recompute=inputs.recompute,
        lora_rank=None if config.lora is None else config.lora.rank,
        frozen=_frozen_bytes(inputs),
    )


def _frozen_bytes(inputs: "Inputs") -> int:
    """Of the tokenizer and the text encoder, as far as they are given by themselves."""
    found = [] if inputs.tokenizer is None else [find_tokenizer(resolve_named(inputs.tokenizer, what="tokenizer"))]
    if inputs.text_encoder is not None:
        found.append(find_text_encoder(resolve_named(inputs.text_encoder, what="text encoder")))
    return sum(map(_weights_bytes, found))


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _device_bytes(name: str) -> float:
    device = resolve_device(name)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _describe_work(config: TransformerTraining, plan: MemoryPlan) -> str:
    """Operations of the run, and how long one known card would take."""
    per_sample = operations_of(config, plan.schedule)
    samples = config.optimization.steps * config.optimization.batch_size
    hours = per_sample * samples / (H100_TFLOPS * 1e12 * UTILIZATION) / 3600
    return (
        f"{per_sample / 1e12:.3g} teraflop a sample, {samples:,} samples: {hours:,.3g} hours of one H100 at"
        f" {UTILIZATION:.0%} of its peak"
    )
