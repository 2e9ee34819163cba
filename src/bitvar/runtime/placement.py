"""The device and precision of a model: choosing them, and moving a model to others."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from bitvar.errors import UsageError
from bitvar.finite import DTYPE_NAMES, require_no_overflow

DTYPES: Final = {name: dtype for dtype, name in DTYPE_NAMES.items() if dtype != torch.float64}
"""The dtypes that a model can compute in, by name."""


def resolve_device(device: str | torch.device) -> torch.device:
    """Convert a name to a device that exists; "auto" is CUDA, else MPS, else the CPU."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if isinstance(device, str) and device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    try:
        chosen = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        chosen = None
    if chosen is None or not available.get(chosen.type, False) or (chosen.index or 0) >= _count(chosen.type):
        devices = [name for name, present in available.items() if present]
        is_device = isinstance(device, str | torch.device)
        given = repr(str(device)[:40]) if is_device else f"of type {type(device).__name__}"
        raise UsageError(f"There is no device {given} here.", f"PyTorch finds {devices}", "choose one of these")
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Convert a name to a torch dtype; "auto" is bf16 on CUDA, else fp32."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if isinstance(dtype, str) and dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if not isinstance(dtype, str) or dtype not in DTYPES:
        given = repr(dtype)[:40] if isinstance(dtype, str | torch.dtype) else f"of type {type(dtype).__name__}"
        raise UsageError(f"Unknown dtype {given}.", fix=f"choose from {['auto', *DTYPES]}")
    return DTYPES[dtype]


def move_model(parts: Sequence[nn.Module], *, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move parts of a model in place, including their adapters, as if they had been loaded there.

    Args:
        parts: Parts on one device.
        device: Device to move to.
        dtype: Precision of the floating-point weights; None keeps it.

    Raises:
        WeightsError: for weights that overflow in `dtype`. No part is changed in that case.
    """
    if dtype is not None:
        weights = [(type(part).__name__, *named) for part in parts for named in _weights(part, dtype)]
        for part_name, name, tensor in weights:
            require_no_overflow({name: tensor}, {name: tensor.to(dtype)}, part_name)
        for _, _, tensor in weights:
            tensor.data = tensor.data.to(dtype)
    for part in parts:
        part.to(device)


def _weights(part: nn.Module, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    """List the tensors that a change of precision affects: with fp16, transformers keeps a few layers of T5 in fp32."""
    kept = tuple(getattr(part, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ()
    return [
        (name, tensor)
        for name, tensor in (*part.named_parameters(), *part.named_buffers())
        if tensor.is_floating_point() and not set(name.split(".")) & set(kept)
    ]


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1
