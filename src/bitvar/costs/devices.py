"""What devices can do: their peak bf16 throughput, by the name that the driver gives them."""

import re
from collections.abc import Mapping
from typing import Final

import torch

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
"""Dense bf16 peaks with fp32 accumulation, in TFLOP/s, from the manufacturers' data sheets. Keys are words of the
device's name; "H100" is the SXM module, whose name contains neither NVL nor PCIe.
"""

_VARIANTS: Final = frozenset({"d", "laptop", "max", "mig", "nvl", "pcie", "super", "ti"})
"""Words that turn a name into another product: an entry without such a word does not match a name that has it."""

_SAME_ON_ANY_BOARD: Final = frozenset({"a10", "a30", "a40", "a100", "a800", "l4", "l40", "l40s"})
"""Cards whose peak does not depend on the board they are on."""


def peak_tflops(device_name: str) -> float | None:
    """Look up the dense bf16 peak of a device in TFLOP/s.

    Takes the entry with the most words among those whose words all occur in the name. Variants of a card, such as its
    laptop version or a MIG slice, count as other cards.

    Args:
        device_name: Name that the driver reports, such as "NVIDIA H100 80GB HBM3".

    Returns:
        The peak, or None for an unknown device.
    """
    words = set(re.split(r"[\s-]+", device_name.lower()))
    matches = [entry for entry in PEAK_TFLOPS if set(entry.lower().split()) <= words]
    if not matches:
        return None
    best = max(matches, key=lambda entry: len(entry.split()))
    known = set(best.lower().split())
    boards = {"pcie"} if known & _SAME_ON_ANY_BOARD else set()
    return None if (words & _VARIANTS) - known - boards else PEAK_TFLOPS[best]


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 peak of a device in FLOP/s; None for an unknown GPU and for anything that is no GPU."""
    tflops = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if tflops is None else tflops * 1e12


def model_flops_utilization(flops_per_second: float, device_name: str) -> float | None:
    """Return the share of a device's dense bf16 peak that training uses, from 0 to 1.

    Args:
        flops_per_second: `training_flops` without recomputation, times the samples per second of this one device.
        device_name: Name that the driver reports, such as "NVIDIA H100 80GB HBM3".

    Returns:
        The share, or None for a device that is not in `PEAK_TFLOPS`.
    """
    peak = peak_tflops(device_name)
    return None if peak is None else flops_per_second / (peak * 1e12)
