"""The gate for numbers: what is not finite, or not floating point, never passes."""

import pytest
import torch

from bitvar.errors import ComputationError, WeightsError
from bitvar.finite import require_finite, require_sound_weights


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_bad_value_is_refused_with_stage_count_and_precision(bad: float, dtype: torch.dtype) -> None:
    values = torch.zeros(3, 4, dtype=dtype)
    require_finite(values, "the logits")
    values[1, 2] = bad
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    with pytest.raises(ComputationError, match=rf"(?s)the logits are not finite.*1 of 12 values.*{name} on cpu"):
        require_finite(values, "the logits")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_are_refused_by_name(dtype: torch.dtype) -> None:
    tensors = {"fine": torch.zeros(2), "odd": torch.zeros(2, dtype=dtype)}
    with pytest.raises(WeightsError, match=r"(?s)file\.safetensors.*odd is torch\."):
        require_sound_weights(tensors, "file.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    tensors = {f"layer{i}": torch.full((2,), bad) for i in range(5)} | {"fine": torch.zeros(2)}
    with pytest.raises(WeightsError, match="layer0, layer1, layer2 and 2 more"):
        require_sound_weights(tensors, "file.safetensors")
    require_sound_weights({"fine": torch.zeros(2), "empty": torch.zeros(0)}, "file.safetensors")
