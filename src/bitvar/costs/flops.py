"""What a transformer costs: parameters, and floating-point operations of a training step, by arithmetic alone.

Counts matrix products and attention, as is usual for utilisation; norms, activations and the loss are left out. Knows
no tensors and no devices beyond their names. The frozen encoders are not counted: their features are made once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Final

from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig

PEAK_TFLOPS: Final[Mapping[str, float]] = {
    "A10": 125.0,
    "A30": 165.0,
    "A40": 149.7,
    "A100": 312.0,
    "A800": 312.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H100": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
    "H800": 989.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "MI300X": 1307.0,
    "MI325X": 1307.0,
    "RTX 3080": 59.5,
    "RTX 3090": 71.0,
    "RTX 3090 Ti": 80.0,
    "RTX 4080": 97.5,
    "RTX 4090": 165.0,
    "RTX 5090": 209.5,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 154.8,
}
"""Dense bf16 peaks with fp32 accumulation, in TFLOP/s, from the makers' data sheets, by words of the device's name.

"H100" is the SXM module, which names neither NVL nor PCIe.
"""

_VARIANTS: Final = frozenset({"d", "laptop", "max", "mig", "nvl", "pcie", "super", "ti"})
"""Words that make another product of a name: an entry without them doesn't speak for it."""

_SAME_ON_ANY_BOARD: Final = frozenset({"a10", "a30", "a40", "a100", "a800", "l4", "l40", "l40s"})
"""Cards whose peak doesn't depend on the board they are on."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of each part of a transformer.

    Attributes:
        text: adapter, null features, pooling, and the cross-attention memory.
        embedding: start token, scale embedding, word embedding.
        modulation: what the blocks share.
        blocks: all of them.
        head: its own modulation, and the classifier.
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
    """Operations of one sample's forward pass; a multiplication and an addition count as two.

    Attributes:
        text: adapter, pooling, cross-attention memory, and every block's keys and values of it.
        embedding: of the latents, scale 1 and up.
        modulation: the blocks' and the head's.
        blocks: all of them, without the text's keys and values, which are made before them.
        head: the classifier.
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
    """The exact number of parameters of each part."""
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
    """The exact number of parameters."""
    return count_parameters(config).total


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with bias."""
    return (inputs + 1) * outputs


def attended_pairs(schedule: ScaleSchedule) -> int:
    """Pairs of query and key in block-causal self-attention: each scale's tokens with all up to its own end."""
    return sum((end - start) * end for start, end in pairwise(schedule.offsets))


def forward_flops(config: TransformerConfig, schedule: ScaleSchedule, *, text_tokens: int) -> ForwardFlops:
    """Operations of one sample's forward pass over all scales.

    Self-attention counts the pairs that the block-causal mask lets through. An attention kernel that computes masked
    pairs too does more, but not more that is useful.

    Args:
        config: sizes.
        schedule: the scales of the sample.
        text_tokens: length of the prompt, padding included.
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
    """Operations of one sample's forward and backward pass: three times the forward pass.

    Args:
        config: sizes.
        schedule: the scales of the sample.
        text_tokens: length of the prompt, padding included.
        activation_checkpointing: Count the blocks' second forward pass too; utilisation leaves it out.
    """
    forward = forward_flops(config, schedule, text_tokens=text_tokens)
    return 3 * forward.total + (forward.blocks if activation_checkpointing else 0)


def peak_tflops(device_name: str) -> float | None:
    """The dense bf16 peak of a device in TFLOP/s by the name its driver gives it; None for one that isn't known.

    The entry with the most words, all of them in the name, is taken. A variant of a card (a laptop's, a slice of one)
    is another card.
    """
    words = set(re.split(r"[\s-]+", device_name.lower()))
    found = [entry for entry in PEAK_TFLOPS if set(entry.lower().split()) <= words]
    if not found:
        return None
    best = max(found, key=lambda entry: len(entry.split()))
    known = set(best.lower().split())
    boards = {"pcie"} if known & _SAME_ON_ANY_BOARD else set()
    return None if (words & _VARIANTS) - known - boards else PEAK_TFLOPS[best]


def model_flops_utilization(flops_per_second: float, device_name: str) -> float | None:
    """The share of a device's dense bf16 peak that training makes use of, 0 to 1.

    Args:
        flops_per_second: `training_flops` without recomputation, times samples a second of this one device.
        device_name: as its driver gives it, such as "NVIDIA H100 80GB HBM3".

    Returns:
        None for a device that isn't in `PEAK_TFLOPS`.
    """
    peak = peak_tflops(device_name)
    return None if peak is None else flops_per_second / (peak * 1e12)
