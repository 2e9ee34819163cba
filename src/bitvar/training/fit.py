"""`bitvar train --fit`: what a run needs, before it is started."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bitvar.costs.flops import num_parameters
from bitvar.costs.training_memory import GIB, LONG_TEXT, MemoryPlan, advice, describe, estimate_memory
from bitvar.errors import UsageError
from bitvar.runtime.placement import resolve_device
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.expected_work import CARD, UTILIZATION, ExpectedWork, expected_work, longest_schedule
from bitvar.training.run_inputs import find_text_encoder
from bitvar.weights.hub import resolve_model
from bitvar.weights.model_folder import find_tokenizer

if TYPE_CHECKING:
    from bitvar.cli.train import Inputs


def describe_fit(
    config: TokenizerTraining | TransformerTraining, inputs: "Inputs", processes: int, device_gib: float | None
) -> str:
    """Memory of a rank at the peak of a step, what to change if that is too much, and the work of the whole run."""
    if config.kind == "tokenizer":
        raise UsageError("--fit knows transformers only.", "this recipe trains a tokenizer", "just start it")
    world = int(os.environ.get("WORLD_SIZE", processes))
    plan = make_plan(config, inputs, world)
    estimate = estimate_memory(plan)
    available = device_gib * GIB if device_gib is not None else _device_bytes(inputs.device)
    lines = [
        f"{num_parameters(config.model):,} parameters; {world} rank{'s' * (world > 1)}, each with {plan.batch_size}"
        f" samples of up to {plan.schedule.num_tokens:,} tokens at once, in {plan.precision}",
        describe(estimate),
        f"of {available / GIB:.1f} GiB: " + ("fits" if estimate.total <= available else "does not fit"),
        *(f"  {line}" for line in advice(plan, int(available))),
        _describe_work(expected_work(config)),
    ]
    return "\n".join(lines)


def make_plan(config: TransformerTraining, inputs: "Inputs", world: int) -> MemoryPlan:
    """The run as far as its memory goes, on its largest schedule."""
    optimization = config.optimization
    return MemoryPlan(
        model=config.model,
        schedule=longest_schedule(config),
        batch_size=inputs.micro_batch_size or max(1, optimization.batch_size // world),
        precision=optimization.precision,
        optimizer=optimization.optimizer,
        text_tokens=min(LONG_TEXT, config.model.max_text_tokens),
        shards=inputs.shards or world,
        activation_checkpointing=inputs.activation_checkpointing,
        lora_rank=None if config.lora is None else config.lora.rank,
        frozen=_frozen_bytes(inputs),
    )


def _frozen_bytes(inputs: "Inputs") -> int:
    """Of the tokenizer and the text encoder, as far as they are given by themselves."""
    found = [] if inputs.tokenizer is None else [find_tokenizer(resolve_model(inputs.tokenizer, what="tokenizer"))]
    if inputs.text_encoder is not None:
        found.append(find_text_encoder(resolve_model(inputs.text_encoder, what="text encoder")))
    return sum(map(_weights_bytes, found))


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _device_bytes(name: str) -> float:
    device = resolve_device(name)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _describe_work(work: ExpectedWork) -> str:
    """Operations of the run, how long one known card would take, and what is counted."""
    height, width = work.schedule[-1]
    return (
        f"{work.flops_per_sample / 1e12:.3g} teraflop a sample, {work.samples:,} samples: {_rounded(work.hours)} hours"
        f" of one {CARD} at {UTILIZATION:.0%} of its peak\n"
        f"  memory is counted with the longest schedule, work with the square of {height} x {width}"
        f" ({work.schedule.num_tokens:,} tokens), both with {work.text_tokens} tokens of text;"
        " recomputed activations (a third more) and frozen encoders are not in the hours"
    )


def _rounded(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
