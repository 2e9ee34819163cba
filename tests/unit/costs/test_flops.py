"""What a transformer costs: counted against the modules themselves, and against PyTorch's own counter of operations."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bitvar.condition import TextCondition
from bitvar.costs.devices import model_flops_utilization, peak_tflops
from bitvar.costs.flops import (
    attended_pairs,
    count_parameters,
    forward_flops,
    num_parameters,
    training_flops,
)
from bitvar.nn.attention import BlockCausal
from bitvar.official_schedules import official_schedule
from bitvar.scales import ScaleSchedule
from bitvar.transformer import PRESETS, InfinityTransformer, TransformerConfig

ADAPTED = TransformerConfig(
    depth=2, width=64, num_heads=4, bits=8, text_width=24, max_text_tokens=12, max_scales=5,
    text_adapter_depth=2, text_adapter_width=128,
)  # fmt: skip
SMALL = TransformerConfig(depth=2, width=128, num_heads=4, bits=16, text_width=96, max_text_tokens=40)
LIKE_125M = PRESETS["125M"].model_copy(update={"depth": 2})
SCHEDULES = [
    ScaleSchedule(((1, 1), (2, 2), (4, 4), (8, 8)), (8, 8)),
    ScaleSchedule(((1, 1), (2, 3), (5, 7)), (5, 7)),
]


def build(config: TransformerConfig) -> InfinityTransformer:
    with torch.device("meta"):
        return InfinityTransformer(config)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", [*PRESETS.values(), ADAPTED, SMALL], ids=[*PRESETS, "adapted", "small"])
def test_parameters_are_counted_exactly_part_by_part(config: TransformerConfig) -> None:
    model, counted = build(config), count_parameters(config)
    assert counted.text == count(model.text)
    assert counted.blocks == count(model.blocks)
    assert counted.modulation == count(model.shared_modulation)
    assert counted.head == count(model.head) + count(model.head_modulation)
    assert counted.total == num_parameters(config) == count(model)


def measure(config: TransformerConfig, schedule: ScaleSchedule, *, text_tokens: int) -> tuple[int, int]:
    """Operations of a forward pass, and of it with its backward pass, by PyTorch's counter.

    It counts matrix products, so attention is made of them here (`SDPBackend.MATH`) on the meta device, mask and all.
    """
    model = build(config)
    with torch.device("meta"):
        condition = TextCondition(
            torch.zeros(1, text_tokens, config.text_width),
            torch.ones(1, text_tokens, dtype=torch.bool),
            torch.zeros(1, dtype=torch.bool),
        )
        inputs = [torch.zeros(1, config.bits, h, w) for h, w in schedule.grids[1:]]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model(condition, inputs, schedule).sum()
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("config", [ADAPTED, SMALL, LIKE_125M], ids=["adapted", "small", "125M"])
def test_operations_agree_with_pytorchs_counter(config: TransformerConfig, schedule: ScaleSchedule) -> None:
    """The counter sees a few pairs more than the mask lets through: coarse scales go together."""
    text_tokens = 11
    forward, both = measure(config, schedule, text_tokens=text_tokens)
    computed = sum((end - start) * end for start, end, _ in BlockCausal(schedule.offsets).pieces)
    masked = computed - attended_pairs(schedule)
    dense = 4 * config.width * config.depth * masked
    assert forward_flops(config, schedule, text_tokens=text_tokens).total + dense == forward
    # The gradient of the first layer's input is asked for by nobody, so the counter's backward is a little short.
    assert training_flops(config, schedule, text_tokens=text_tokens) + 3 * dense == pytest.approx(both, rel=0.02)


@pytest.mark.parametrize("schedule", [*SCHEDULES, official_schedule("1.5", "0.06M")])
def test_attended_pairs_are_those_of_the_mask(schedule: ScaleSchedule) -> None:
    scale = schedule.scale_index()
    assert attended_pairs(schedule) == (scale[:, None] >= scale[None, :]).sum()


def test_recomputation_adds_the_blocks_once_more() -> None:
    schedule = SCHEDULES[0]
    blocks = forward_flops(SMALL, schedule, text_tokens=7).blocks
    more = training_flops(SMALL, schedule, text_tokens=7, activation_checkpointing=True)
    assert more == training_flops(SMALL, schedule, text_tokens=7) + blocks


def test_a_longer_prompt_costs_more() -> None:
    short, long = (training_flops(SMALL, SCHEDULES[0], text_tokens=t) for t in (7, 14))
    assert short < long < 2 * short


def test_a_large_model_costs_what_the_usual_rule_says_and_its_attention() -> None:
    """Six operations a parameter and token (14 c^2 a block, keys and values of the text aside), and 68.5 M pairs."""
    config, schedule = PRESETS["2B"], official_schedule("1.0", "1M")
    assert (schedule.num_tokens, attended_pairs(schedule)) == (10_521, 68_484_681)
    c = config.width
    expected = config.depth * (6 * 14 * c * c * 10_521 + 3 * 4 * c * 68_484_681)
    assert training_flops(config, schedule, text_tokens=64) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", 80.0),
        ("NVIDIA RTX 6000 Ada Generation", 364.0),
        ("AMD Instinct MI300X", 1307.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA A10G", None),
        ("Quadro RTX 6000", None),
        ("cpu", None),
    ],
)
def test_peaks_are_found_by_the_devices_name(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_utilization_is_a_share_of_the_peak() -> None:
    assert model_flops_utilization(312e12 / 4, "NVIDIA A100-SXM4-40GB") == 0.25
    assert model_flops_utilization(1e12, "cpu") is None
