"""Parameters of a transformer and floating-point operations of a training step, by arithmetic alone.

Operations are those of matrix products and attention, as is usual for model FLOPs utilization; norms, activations and
the loss are left out. So are the frozen encoders, whose features are computed once. Knows no tensors and no devices.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig


@dataclass(frozen=True)
class ParameterCount:
    """Number of parameters in each component of a transformer.

    Attributes:
        text: Text adapter, null features, pooling, and the projection to the cross-attention memory.
        embedding: Start token, scale embedding, and input projection.
        modulation: Modulation that the blocks share.
        blocks: All blocks together.
        head: Classifier and its own modulation.
    """

    text: int
    embedding: int
    modulation: int
    blocks: int
    head: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class ForwardFlops:
    """Floating-point operations of one sample's forward pass; a multiply-add counts as two.

    Attributes:
        text: Text adapter, pooling, cross-attention memory, and the text keys and values of every block.
        embedding: Input projection of the latents, from the second scale on.
        modulation: Modulation of the blocks and of the head.
        blocks: All blocks, without the text keys and values, which are computed before them.
        head: Classifier.
    """

    text: float
    embedding: float
    modulation: float
    blocks: float
    head: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def count_parameters(config: TransformerConfig) -> ParameterCount:
    """Return the exact number of parameters of each component."""
    c, w, v, f, n = config.width, config.condition_width, config.text_width, config.ffn_width, config.num_heads
    layer = linear(w, 3 * w) + linear(w, w) + linear(w, 2 * w) + linear(2 * w, w) + 2 * 2 * w
    adapter = 2 * v + linear(v, w) + config.text_adapter_depth * layer if config.text_adapter_depth else 0
    pool = c + 2 * w * c + c + linear(c, c)
    self_attention = 3 * c * c + 2 * c + n + linear(c, c)
    cross_attention = linear(c, c) + 2 * c * c + c + linear(c, c)
    block = 6 * c + self_attention + 2 * c + cross_attention + linear(c, f) + linear(f, c)
    return ParameterCount(
        text=adapter + config.max_text_tokens * w + w + pool + linear(w, c) + linear(c, c),
        embedding=c + config.max_scales * c + linear(config.bits, c),
        modulation=linear(c, 6 * c),
        blocks=config.depth * block,
        head=linear(c, 2 * c) + linear(c, 2 * config.bits),
    )


def num_parameters(config: TransformerConfig) -> int:
    """Return the exact number of parameters."""
    return count_parameters(config).total


def linear(inputs: int, outputs: int) -> int:
    """Return the number of parameters of a linear layer with bias."""
    return (inputs + 1) * outputs


def attended_pairs(schedule: ScaleSchedule) -> int:
    """Count the query-key pairs of block-causal attention: a token sees all tokens up to the end of its own scale."""
    return sum((end - start) * end for start, end in pairwise(schedule.offsets))


def forward_flops(config: TransformerConfig, schedule: ScaleSchedule, *, text_tokens: int) -> ForwardFlops:
    """Count the operations of one sample's forward pass over all scales.

    Self-attention counts only the pairs that the block-causal mask lets through. An attention kernel that computes
    masked pairs too does more operations, none of them useful.

    Args:
        config: Model configuration.
        schedule: Scale schedule of the sample.
        text_tokens: Length of the prompt in tokens, padding included.
    """
    c, w, f, t, depth = config.width, config.condition_width, config.ffn_width, text_tokens, config.depth
    l, bits = schedule.num_tokens, config.bits  # noqa: E741  (the axis)
    adapter = 2 * t * config.text_width * w if config.text_adapter_depth else 0
    adapter += config.text_adapter_depth * (2 * t * 8 * w * w + 4 * t * t * w)
    pool = 2 * t * w * 2 * c + 4 * t * c + 2 * c * c
    memory = 2 * t * (w * c + c * c)
    projections = 2 * l * c * (3 * c + c + 2 * c + 2 * f)
    attention = 4 * c * (attended_pairs(schedule) + l * t)
    return ForwardFlops(
        text=adapter + pool + memory + depth * 2 * t * c * 2 * c,
        embedding=2 * (l - 1) * bits * c,
        modulation=2 * c * (6 * c + 2 * c),
        blocks=depth * (projections + attention),
        head=2 * l * c * 2 * bits,
    )


def training_flops(
    config: TransformerConfig, schedule: ScaleSchedule, *, text_tokens: int, activation_checkpointing: bool = False
) -> float:
    """Count the operations of one sample's forward and backward pass: three times the forward pass.

    Args:
        config: Model configuration.
        schedule: Scale schedule of the sample.
        text_tokens: Length of the prompt in tokens, padding included.
        activation_checkpointing: Whether to count the blocks' second forward pass too. Model FLOPs utilization leaves
            it out.
    """
    forward = forward_flops(config, schedule, text_tokens=text_tokens)
    return 3 * forward.total + (forward.blocks if activation_checkpointing else 0)
