"""The estimate of memory against what tensors take: kept by autograd, at the peak of a step, and between steps."""

from dataclasses import fields, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bitvar.condition import TextCondition
from bitvar.costs.training_memory import GIB, MemoryPlan, advice, describe, estimate_memory, largest_batch
from bitvar.official_schedules import official_schedule
from bitvar.scales import ScaleSchedule
from bitvar.training.config import OptimizationConfig
from bitvar.training.engine.optim import Ema, build_optimizer
from bitvar.transformer import PRESETS, InfinityTransformer, TransformerConfig, bitwise_loss
from tests.support.live_tensors import LiveTensors

SCHEDULE = ScaleSchedule(((1, 1), (2, 2), (4, 4), (8, 8), (12, 12)), (12, 12))
PLAIN = TransformerConfig(depth=3, width=128, num_heads=4, bits=16, text_width=96, max_text_tokens=40)
ADAPTED = TransformerConfig(
    depth=2, width=64, num_heads=4, bits=8, text_width=24, max_text_tokens=40, text_adapter_depth=2,
    text_adapter_width=128,
)  # fmt: skip
PLANS = [
    MemoryPlan(model, SCHEDULE, batch, precision=precision, text_tokens=tokens)
    for model, batch, tokens in ((PLAIN, 5, 30), (ADAPTED, 3, 11))
    for precision in ("fp32", "bf16")
]
BIG = MemoryPlan(PRESETS["2B"], official_schedule("1.0", "1M"), 8)


@pytest.fixture(autouse=True)
def _attention_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU keeps q, k and v of small attention in fp32, which no other device does."""
    monkeypatch.setattr("bitvar.nn.attention._trains_faster_in_fp32", lambda q, k, v: False)


def build(plan: MemoryPlan) -> InfinityTransformer:
    model = InfinityTransformer(plan.model)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def loss_of(model: InfinityTransformer, plan: MemoryPlan) -> Tensor:
    config, batch = plan.model, plan.batch_size
    condition = TextCondition.from_list([torch.randn(plan.text_tokens, config.text_width) for _ in range(batch)])
    inputs = [torch.randn(batch, config.bits, h, w) for h, w in plan.schedule.grids[1:]]
    dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    logits = model(condition, inputs, plan.schedule, dtype=dtype)
    return bitwise_loss(logits, torch.rand(logits.shape[:-1]) > 0.5, plan.schedule)


@pytest.mark.parametrize("plan", PLANS)
def test_what_autograd_keeps_is_estimated(plan: MemoryPlan) -> None:
    model = build(plan)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, plan)
    measured = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)
    assert loss.requires_grad
    estimate = estimate_memory(plan)
    assert estimate.activations + estimate.compute_weights == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_the_peak_of_a_step_is_estimated(plan: MemoryPlan, activation_checkpointing: bool) -> None:
    model = build(plan)
    if activation_checkpointing:
        for block in model.blocks:
            _recompute(block)
    gradients = []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    with LiveTensors([*model.parameters(), *gradients]) as live:
        loss_of(model, plan).backward()
    estimate = estimate_memory(replace(plan, activation_checkpointing=activation_checkpointing))
    passing = estimate.compute_weights + estimate.activations + estimate.loss + estimate.workspace
    assert 0.95 * live.peak < passing < 1.15 * live.peak


def _recompute(block: nn.Module) -> None:
    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("model", [PLAIN, ADAPTED], ids=["plain", "adapted"])
def test_weights_moments_and_averages_are_exact(model: TransformerConfig, optimizer: Literal["adamw", "muon"]) -> None:
    plan = MemoryPlan(model, SCHEDULE, 1, precision="fp32", optimizer=optimizer, text_tokens=5)
    built = build(plan)
    settings = OptimizationConfig(optimizer=optimizer, steps=1, batch_size=1, learning_rate=1e-3)
    updates, average = build_optimizer(built, settings), Ema(built, 0.9)
    loss_of(built, plan).backward()
    updates.step()
    moments = [v for state in updates.state.values() for v in state.values() if v.ndim]  # the others count steps
    estimate = estimate_memory(plan)
    assert estimate.parameters == size(built.parameters())
    assert estimate.gradients == size(p.grad for p in built.parameters())
    assert estimate.optimizer == size(moments)
    assert estimate.ema == size(average.tensors.values())


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_each_setting_takes_or_saves_memory_where_it_should() -> None:
    before = estimate_memory(BIG)

    def changed(**changes: Any) -> dict[str, float]:
        after = estimate_memory(replace(BIG, **changes))
        names = [field.name for field in fields(before)]
        pairs = {name: (getattr(before, name), getattr(after, name)) for name in names}
        return {name: b / a if a else float("inf") for name, (a, b) in pairs.items() if a != b}

    assert changed(batch_size=16).keys() == {"activations", "loss", "workspace"}
    assert changed(precision="fp32").keys() == {"activations", "compute_weights"}
    assert changed(optimizer="muon").keys() == {"optimizer"}
    assert changed(ema=False) == {"ema": 0.0}
    assert changed(text_tokens=256)["activations"] > 1
    assert changed(activation_checkpointing=True)["activations"] < 0.1
    assert changed(frozen=5).keys() == {"frozen"}
    states = ("parameters", "gradients", "optimizer", "ema")
    sharded = changed(shards=8)
    assert [sharded[name] for name in states] == pytest.approx([1 / 8] * 4)
    assert sharded.keys() == {*states, "compute_weights"}
    adapters = changed(lora_rank=16)
    assert 1 < adapters["parameters"] < 1.05
    assert adapters["gradients"] < 0.05
    assert adapters["ema"] < 0.05


def test_adapters_are_counted() -> None:
    config = PLAIN
    layers = [block_layer.weight.shape for block_layer in _block_linears(config)]
    expected = 4 * config.depth * sum(r * (o + i) for o, i in layers for r in [8])
    assert estimate_memory(MemoryPlan(config, SCHEDULE, 1, lora_rank=8)).gradients == expected


def _block_linears(config: TransformerConfig) -> list[Any]:
    with torch.device("meta"):
        block = InfinityTransformer(config).blocks[0]
    return [module for module in block.modules() if hasattr(module, "weight") and module.weight.ndim == 2]


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    plan = replace(BIG, activation_checkpointing=True)
    batch = largest_batch(plan, 80 * GIB)
    assert batch > 1
    assert estimate_memory(replace(plan, batch_size=batch)).total <= 80 * GIB
    assert estimate_memory(replace(plan, batch_size=batch + 1)).total > 80 * GIB
    assert largest_batch(plan, 10 * GIB) == 0


def test_what_fits_needs_no_advice() -> None:
    assert advice(BIG, 10_000 * GIB) == []


def test_advice_begins_with_what_changes_nothing_and_ends_when_it_fits() -> None:
    [line] = advice(BIG, 80 * GIB)
    assert line.startswith("--activation-checkpointing")
    assert line.endswith("of 80.0 GiB, fits")
    activation_checkpointing, accumulate = advice(replace(BIG, batch_size=64), 80 * GIB)
    assert activation_checkpointing.endswith("still too much")
    parts = largest_batch(replace(BIG, activation_checkpointing=True), 80 * GIB)
    assert accumulate.startswith("and --micro-batch")
    assert int(accumulate.split()[2].rstrip(",")) <= parts
    assert accumulate.endswith("fits")
    alone = accumulate.removeprefix("and ")
    assert advice(replace(BIG, batch_size=64, activation_checkpointing=True), 80 * GIB) == [alone]


def test_advice_offers_more_ranks_bf16_and_adapters_when_one_sample_is_too_much() -> None:
    lines = advice(replace(BIG, precision="fp32"), 24 * GIB)
    beginnings = (
        "--activation-checkpointing",
        "and --micro-batch 1, 8 micro-batches",
        "or shard weights and optimizer over",
        "or --set optimization.precision=bf16",
        "or train LoRA adapters",
    )
    assert [line.startswith(start) for line, start in zip(lines, beginnings, strict=True)] == [True] * 5
    assert "fits" in lines[2]
    assert "fits" in lines[4]
    hopeless = advice(replace(BIG, batch_size=1, activation_checkpointing=True, lora_rank=16), GIB)
    assert len(hopeless) == 1
    assert hopeless[0].endswith("still too much")


def test_the_table_lists_what_takes_memory_and_the_sum() -> None:
    estimate = estimate_memory(BIG)
    lines = describe(estimate).splitlines()
    assert not any(line.startswith("frozen") for line in lines)
    shown = [float(line.split()[-2]) for line in lines]
    assert shown[-1] == pytest.approx(sum(shown[:-1]), abs=0.05)
    assert shown[-1] == pytest.approx(estimate.total / GIB, abs=0.01)
