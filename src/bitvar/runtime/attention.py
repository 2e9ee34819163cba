"""The choice of an attention implementation for training: SDPA or FlexAttention."""

from collections.abc import Sequence
from typing import Final

import torch

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.nn.attention import AttentionFn
from bitvar.scales import ScaleSchedule

ATTENTION_NAMES: Final = ("sdpa", "flex")


def check_attention(attention: str, device: str) -> None:
    """Refuse an unknown attention implementation, or one that can't train on the device.

    Args:
        attention: One of `ATTENTION_NAMES`.
        device: Device type, such as "cuda".

    Raises:
        UsageError: If the name is unknown, or FlexAttention is to train on anything but CUDA.
    """
    if attention not in ATTENTION_NAMES:
        raise UsageError(unknown(f"attention {attention!r}", attention, list(ATTENTION_NAMES)))
    if attention == "flex" and device != "cuda":
        why = "PyTorch computes its gradients on CUDA only"
        raise UsageError(f"FlexAttention can't train on {device}.", why, "leave --attention flex out")


def attention_fns(schedules: Sequence[ScaleSchedule], attention: str, device: torch.device) -> dict[int, AttentionFn]:
    """Return an attention function for each schedule, by its index; none for "sdpa", the models' own choice.

    Args:
        schedules: Schedules that the model trains on.
        attention: One of `ATTENTION_NAMES`.
        device: Device that the model trains on.

    Raises:
        UsageError: If the name is unknown, or FlexAttention is to train on anything but CUDA.
    """
    check_attention(attention, device.type)
    if attention == "sdpa":
        return {}
    from bitvar.runtime.flex_attention import FlexBlockCausal  # compiles on import

    return {index: FlexBlockCausal(schedule.offsets, device) for index, schedule in enumerate(schedules)}
