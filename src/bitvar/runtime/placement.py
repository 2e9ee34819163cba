"""Which device and precision a model is loaded on."""

from typing import Final

import torch

from bitvar.errors import UsageError, explain

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that exists; "auto" is CUDA, else MPS, else the CPU."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or not available.get(chosen.type, False):
        here = [name for name, present in available.items() if present]
        raise UsageError(
            explain(f"There is no device {str(device)!r} here.", f"PyTorch finds {here}", "choose one of these")
        )
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A torch dtype; "auto" is bf16 on CUDA, else fp32."""
    if dtype in DTYPES.values():
        return dtype  # pyright: ignore[reportReturnType]
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise UsageError(
            explain(f"Unknown dtype {dtype!r}.", "it names no precision", f"choose from {['auto', *DTYPES]}")
        )
    return DTYPES[str(dtype)]
