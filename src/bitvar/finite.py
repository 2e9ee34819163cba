"""The one gate for numbers: nothing that is NaN or infinite becomes a bit, an image, a feature or a file.

Every stage that computes (text encoder, transformer, tokenizer) and every reader of weights passes its tensors through
here. A comparison with NaN is False, so without the gate a broken computation looks like a dull but valid result.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bitvar.errors import ComputationError, WeightsError, explain

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}


def require_finite(values: Tensor, what: str, *, precision: torch.dtype | None = None) -> None:
    """Refuse a computed tensor that holds NaN or infinity.

    Args:
        values: any shape; floating point.
        what: the stage and place to name in the error, such as "the transformer's logits at scale 3".
        precision: what the stage computes in, where its result is of another dtype.

    Raises:
        ComputationError: naming the stage, how many values are bad, the precision and the device.
    """
    finite = torch.isfinite(values)
    if finite.all():
        return
    bad = int((~finite).sum())
    computed = precision or values.dtype
    name = _NAMES.get(computed, str(computed))
    raise ComputationError(
        explain(
            f"A computation failed: {what} are not finite.",
            f"{bad:,} of {values.numel():,} values are NaN or infinite, in {name} on {values.device.type}",
            "fp16 overflows above 65504: try --dtype bf16 or fp32"
            if computed == torch.float16
            else "check the weights and adapters in use, and try --dtype fp32",
        )
    )


def require_sound_weights(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights of another kind than real floating point, and weights that are not finite.

    Args:
        tensors: name to tensor, any shapes.
        source: the file or folder to name in the error.

    Raises:
        WeightsError: naming the first tensors at fault.
    """
    wrong_kind = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if wrong_kind:
        raise WeightsError(
            explain(
                f"{source} holds weights that are not floating point.",
                _first_of(wrong_kind),
                "give the original fp32, bf16 or fp16 weights; quantised files are not supported",
            )
        )
    not_finite = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if not_finite:
        raise WeightsError(
            explain(
                f"{source} holds weights that are NaN or infinite.",
                _first_of(not_finite),
                "the file was damaged or its training diverged: get it again, or use an earlier checkpoint",
            )
        )


def _first_of(names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
