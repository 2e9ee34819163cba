"""Estimated memory of a transformer run on each rank, and changes that make the run fit.

Sizes are in bytes. The estimate counts the tensors that the run allocates. It excludes the device's driver (about a
gigabyte on a GPU) and the allocator's overhead (a few per cent). This module knows the model's layers, but neither
devices nor the training loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from bitvar.costs.flops import count_parameters, num_parameters
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig

FP32: Final = 4
GIB: Final = 2**30

LONG_TEXT: Final = 128
"""Number of tokens of a long prompt, which estimates of memory and compute assume."""


@dataclass(frozen=True)
class MemoryPlan:
    """Settings of a run that determine its memory.

    Attributes:
        model: Configuration of the transformer.
        schedule: Largest schedule in use.
        batch_size: Number of samples in one forward pass on one rank.
        precision: Precision of the activations. Weights and optimizer state are fp32.
        optimizer: Name of the optimizer, "adamw" or "muon".
        ema: Whether averaged weights are kept.
        text_tokens: Number of tokens of the longest prompt in a batch.
        shards: Number of ranks that weights, gradients, optimizer state and averaged weights are sharded over; 1 for
            no sharding.
        activation_checkpointing: Whether the backward pass recomputes each block's activations.
        lora_rank: Rank of the adapters of every linear layer in the blocks; None to train all weights.
        frozen: Bytes of everything else on the device, such as the frozen encoders.
    """

    model: TransformerConfig
    schedule: ScaleSchedule
    batch_size: int
    precision: Literal["fp32", "bf16"] = "bf16"
    optimizer: Literal["adamw", "muon"] = "adamw"
    ema: bool = True
    text_tokens: int = LONG_TEXT
    shards: int = 1
    activation_checkpointing: bool = False
    lora_rank: int | None = None
    frozen: int = 0

    @property
    def item(self) -> int:
        """Number of bytes of one activation."""
        return FP32 if self.precision == "fp32" else 2

    @property
    def rows(self) -> int:
        """Number of image tokens in the batch."""
        return self.batch_size * self.schedule.num_tokens


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank at the peak of a step, early in the backward pass.

    Attributes:
        parameters: This rank's fp32 weights, adapters included.
        gradients: This rank's fp32 gradients of the trained weights.
        optimizer: Moments of the optimizer.
        ema: Averaged weights in fp32.
        compute_weights: Weights in the activations' precision: copies that the backward pass needs, or, if sharded,
            the gathered weights of a block and its gradients before they are reduced.
        activations: Tensors that autograd keeps for the backward pass.
        loss: Logits, their gradient and the batch itself.
        workspace: Temporary tensors of the backward pass.
        frozen: Bytes of `MemoryPlan.frozen`.
    """

    parameters: int
    gradients: int
    optimizer: int
    ema: int
    compute_weights: int
    activations: int
    loss: int
    workspace: int
    frozen: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def estimate_memory(plan: MemoryPlan) -> MemoryEstimate:
    """Estimate the memory of one rank, within a few per cent on a CPU (`tests/unit/costs/test_training_memory.py`).

    Kernels of other devices differ slightly. With LoRA, only adapters have averaged weights and moments. With sharding,
    all fp32 state is split evenly, and blocks are gathered one at a time while the previous one computes.
    """
    config, every = plan.model, num_parameters(plan.model)
    adapters = 0 if plan.lora_rank is None else config.depth * sum(sum(s) for s in _linears(config)) * plan.lora_rank
    trained = every if plan.lora_rank is None else adapters
    moments = 2 * trained
    if plan.optimizer == "muon" and plan.lora_rank is None:
        moments -= _hidden(config)  # Muon keeps one moment for these
    return MemoryEstimate(
        parameters=_share((every + adapters) * FP32, plan.shards),
        gradients=_share(trained * FP32, plan.shards),
        optimizer=_share(moments * FP32, plan.shards),
        ema=_share(trained * FP32, plan.shards) if plan.ema else 0,
        compute_weights=_compute_weights(plan),
        activations=_activations(plan),
        loss=plan.rows * config.bits * (2 * 2 * FP32 + FP32 + 1),
        workspace=2 * plan.rows * config.width * FP32,
        frozen=plan.frozen,
    )


def _share(size: int, shards: int) -> int:
    return -(-size // shards)


def _linears(config: TransformerConfig) -> list[tuple[int, int]]:
    """List the input and output widths of a block's linear layers."""
    c, f = config.width, config.ffn_width
    return [(c, 3 * c), (c, c), (c, c), (c, 2 * c), (c, c), (c, f), (f, c)]


def _hidden(config: TransformerConfig) -> int:
    """Count the parameters that Muon updates from momentum alone (`optim.hidden_matrices`)."""
    c, w = config.width, config.condition_width
    adapter = config.text_width * w + config.text_adapter_depth * 8 * w * w if config.text_adapter_depth else 0
    blocks = config.depth * sum(inputs * outputs for inputs, outputs in _linears(config))
    return blocks + adapter + 3 * w * c + 2 * c * c


def _compute_weights(plan: MemoryPlan) -> int:
    config, counted = plan.model, count_parameters(plan.model)
    block = counted.blocks // config.depth
    if plan.shards > 1:
        rest = counted.total - counted.blocks
        return (rest + min(2, config.depth) * block) * plan.item + block * FP32
    if plan.precision == "fp32":
        return 0
    c = config.width
    of_block = sum(inputs * outputs for inputs, outputs in _linears(config))
    elsewhere = counted.text - config.max_text_tokens * config.condition_width + 8 * c * c
    return plan.item * (elsewhere + (1 if plan.activation_checkpointing else config.depth) * of_block)


def _activations(plan: MemoryPlan) -> int:
    config, item, rows, depth = plan.model, plan.item, plan.rows, plan.model.depth
    c, w, l = config.width, config.condition_width, plan.schedule.num_tokens  # noqa: E741  (the axis)
    text = plan.batch_size * plan.text_tokens
    embedding = text * (w * (2 * FP32 + item) + 6 * c * item) + _adapter(plan)
    inputs = rows * config.bits * item + l * config.head_dim * FP32
    head = rows * (3 * c + 2 * config.bits) * FP32  # normalised, modulated; the loss's margins, targets
    blocks = depth * rows * c * item + _block(plan) if plan.activation_checkpointing else depth * _block(plan)
    return embedding + inputs + head + blocks


def _block(plan: MemoryPlan) -> int:
    """Bytes that autograd keeps for one block, in the order of `transformer/block.py`."""
    config, item, rows = plan.model, plan.item, plan.rows
    c, n = config.width, config.num_heads
    norms = 5 * c  # three inputs, and two outputs before modulation
    unit_vectors = 3 * c if plan.precision == "bf16" else 5 * c  # q, k, q / |q|; in fp32, k is a view of qkv
    attention = 7 * c  # input of qkv; q, k, v; result of the kernel and its rearranged copy; projection
    cross_attention = 3 * c  # input, q, result
    feed_forward = 2 * c + 2 * config.ffn_width
    statistics = 6 + 6 * n  # statistics of norms, vector lengths and softmaxes
    adapters = 0 if plan.lora_rank is None else len(_linears(config)) * plan.lora_rank
    per_token = (norms + unit_vectors + statistics) * FP32
    per_token += (attention + cross_attention + feed_forward + adapters) * item
    per_sample = c * (6 * item + 6 * FP32)  # modulation
    keys_values = 3 * plan.batch_size * plan.text_tokens * c * item
    return rows * per_token + plan.batch_size * per_sample + keys_values


def _adapter(plan: MemoryPlan) -> int:
    """Bytes that autograd keeps for the text adapter."""
    config, item = plan.model, plan.item
    if not config.text_adapter_depth:
        return 0
    layer = config.condition_width * (2 * FP32 + 11 * item)
    per_token = config.text_width * (FP32 + item) + config.text_adapter_depth * layer
    return plan.batch_size * plan.text_tokens * per_token


def largest_batch(plan: MemoryPlan, available_bytes: int) -> int:
    """Compute the largest batch of one forward pass that fits; 0 if not even one sample does."""
    empty, one = (estimate_memory(replace(plan, batch_size=b)).total for b in (0, 1))
    return max(0, (available_bytes - empty) // (one - empty))


def advice(plan: MemoryPlan, available_bytes: int) -> list[str]:
    """Suggest changes that make a run fit into memory.

    Args:
        plan: Settings of the run.
        available_bytes: Memory of the device that is available for tensors.

    Returns:
        One line per change, with the resulting total and whether it fits; no lines if the plan fits unchanged. The
        first changes don't affect the result of training; they accumulate until the plan fits. If they aren't enough,
        alternatives follow, each applied on top of all of these.
    """
    lines: list[str] = []
    if estimate_memory(plan).total <= available_bytes:
        return lines
    reduced = plan
    for change, reduced in _same_training(plan, available_bytes):
        lines.append(f"{'and ' * bool(lines)}{_describe_change(change, reduced, available_bytes)}")
        if estimate_memory(reduced).total <= available_bytes:
            return lines
    ways_out = _ways_out(reduced, available_bytes)
    return lines + [_describe_change(change, other, available_bytes) for change, other in ways_out]


def _describe_change(change: str, plan: MemoryPlan, available_bytes: int) -> str:
    total = estimate_memory(plan).total
    outcome = "fits" if total <= available_bytes else "still too much"
    return f"{change}: {total / GIB:.1f} of {available_bytes / GIB:.1f} GiB, {outcome}"


def _same_training(plan: MemoryPlan, available_bytes: int) -> Iterator[tuple[str, MemoryPlan]]:
    if not plan.activation_checkpointing:
        plan = replace(plan, activation_checkpointing=True)
        yield "--activation-checkpointing, a third more compute", plan
    if plan.batch_size > 1:
        max_samples = max(1, largest_batch(plan, available_bytes))
        divisors = (d for d in range(2, plan.batch_size + 1) if plan.batch_size % d == 0)
        num_micro_batches = next(d for d in divisors if plan.batch_size // d <= max_samples)
        plan = replace(plan, batch_size=plan.batch_size // num_micro_batches)
        yield f"--micro-batch {plan.batch_size}, {num_micro_batches} micro-batches per step", plan


def _ways_out(plan: MemoryPlan, available_bytes: int) -> Iterator[tuple[str, MemoryPlan]]:
    sharded = [replace(plan, shards=plan.shards * 2**i) for i in range(1, 11)]
    enough = [p for p in sharded if estimate_memory(p).total <= available_bytes]
    spread = enough[0] if enough else sharded[-1]
    yield f"or shard weights and optimizer over {spread.shards} ranks (--nproc, --shards)", spread
    if plan.precision == "fp32":
        yield "or --set optimization.precision=bf16", replace(plan, precision="bf16")
    if plan.lora_rank is None:
        yield "or train LoRA adapters of rank 16 instead of all weights", replace(plan, lora_rank=16)


def describe(estimate: MemoryEstimate) -> str:
    """Format the estimate as a table in GiB, with the total."""
    sizes = {field.name.replace("_", " "): getattr(estimate, field.name) for field in fields(estimate)}
    rows = [*((name, size) for name, size in sizes.items() if size), ("total", estimate.total)]
    return "\n".join(f"{name:16} {size / GIB:8.2f} GiB" for name, size in rows)
