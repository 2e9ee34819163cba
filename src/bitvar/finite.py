"""Checks for NaN and infinity, so that neither becomes a bit, an image, a feature or a file.

Every stage that computes (text encoder, transformer, tokenizer) and every reader of weights checks its tensors here. A
comparison with NaN is False, so without these checks a broken computation would give a dull but valid result.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bitvar.errors import ComputationError, WeightsError

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
"""Short names of the floating-point dtypes that weights may have."""


def require_finite(values: Tensor, what: str, *, precision: torch.dtype | None = None) -> None:
    """Refuse a computed tensor that holds NaN or infinity.

    Args:
        values: Floating-point tensor of any shape.
        what: Name of the values in the error, such as "the transformer's logits at scale 3".
        precision: Precision that the stage computes in, if its result has another dtype.

    Raises:
        ComputationError: naming the stage, the number of bad values, the precision and the device.
    """
    finite = torch.isfinite(values)
    if finite.all():
        return
    bad = int((~finite).sum())
    computed = precision or values.dtype
    name = DTYPE_NAMES.get(computed, str(computed))
    raise ComputationError(
        f"A computation failed: {what} are not finite.",
        f"{bad:,} of {values.numel():,} values are NaN or infinite, in {name} on {values.device.type}",
        "fp16 overflows above 65504: try --dtype bf16 or fp32"
        if computed == torch.float16
        else "check the weights and adapters in use, and try --dtype fp32",
    )


def require_sound_weights(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not finite, or of a dtype other than fp64, fp32, bf16 and fp16.

    Args:
        tensors: Tensors of any shape, by name.
        source: Name of the file or folder in the error.

    Raises:
        WeightsError: naming the first bad tensors.
    """
    wrong_kind = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in DTYPE_NAMES]
    if wrong_kind:
        raise WeightsError(
            f"{source} holds weights that are not floating point of 16 bits or more.",
            _first_of(wrong_kind),
            "give the original fp32, bf16 or fp16 weights; quantised files are not supported",
        )
    not_finite = [name for name, tensor in tensors.items() if not _all_finite(tensor)]
    if not_finite:
        raise WeightsError(
            f"{source} holds weights that are NaN or infinite.",
            _first_of(not_finite),
            "the file was damaged or its training diverged: get it again, or use an earlier checkpoint",
        )


def cast_weights(
    tensors: Mapping[str, Tensor], source: str, *, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Convert sound weights to another precision or device, and refuse values that overflow.

    Args:
        tensors: Tensors of any shape that `require_sound_weights` accepted, by name.
        source: Name of the file or folder in the error.
        dtype: Target precision; None keeps that of each tensor.
        device: Target device; None keeps that of each tensor.

    Raises:
        WeightsError: naming the first tensors that overflow, and a precision that can represent them.
    """
    cast = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    require_no_overflow(tensors, cast, source)
    return cast


def require_no_overflow(before: Mapping[str, Tensor], after: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that became infinite when they were cast to a narrower precision.

    Args:
        before: Sound weights by name. Those that `after` lacks are skipped.
        after: The same weights after the cast.
        source: Name of the file or folder in the error.

    Raises:
        WeightsError: naming the first tensors that overflow, and a precision that can represent them.
    """
    narrower = [n for n, t in before.items() if n in after and _largest(after[n].dtype) < _largest(t.dtype)]
    lost = [name for name in narrower if not _all_finite(after[name])]
    if not lost:
        return
    largest = {name: before[name].abs().max().item() for name in lost}
    dtype, reached = after[lost[0]].dtype, [f"{name} reaches {value:g}" for name, value in largest.items()]
    fits = next((t for t in (torch.bfloat16, torch.float32) if max(largest.values()) <= _largest(t)), None)
    raise WeightsError(
        f"{source} holds weights that overflow in {DTYPE_NAMES[dtype]}.",
        f"its largest number is {_largest(dtype):g}; {_first_of(reached)}",
        f"use {DTYPE_NAMES[fits]}, which holds them: --dtype {DTYPE_NAMES[fits]}"
        if fits
        else "no precision of a model holds them: get the file again",
    )


def _all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Checking minimum and maximum is far faster than checking each value."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def _largest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max


def _first_of(names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
