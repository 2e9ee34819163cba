"""Attainable rates: the operations agree with the arithmetic of `costs`, and every kernel computes the same."""

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bitvar.costs.flops import forward_flops
from bitvar.profiling.roofline import (
    Attention,
    Convolution,
    Kernel,
    MatrixProduct,
    decoder_kernels,
    scale_flops,
    scale_kernels,
    total_flops,
)
from tests.support.tiny import tiny_tokenizer, tiny_transformer

CPU = torch.device("cpu")
CONFIG = tiny_transformer().config
SCHEDULE = CONFIG.all_schedules()[0]


def test_the_scales_have_all_operations_of_a_forward_pass() -> None:
    whole = forward_flops(CONFIG, SCHEDULE, text_tokens=7).total
    parts = [scale_flops(CONFIG, SCHEDULE, k, text_tokens=7) for k in range(len(SCHEDULE))]
    assert sum(parts) == pytest.approx(whole)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("k", [1, 2])
def test_the_kernels_of_a_scale_have_its_operations(k: int, rows: int) -> None:
    kernels = scale_kernels(CONFIG, SCHEDULE, k, rows=rows, text_tokens=7, dtype=torch.bfloat16)
    assert total_flops(kernels) == pytest.approx(rows * scale_flops(CONFIG, SCHEDULE, k, text_tokens=7))
    assert {kernel.dtype for kernel in kernels if isinstance(kernel, Attention)} == {torch.bfloat16}
    assert sum(n for kernel, n in kernels.items() if getattr(kernel, "dtype", None) == torch.float32) == 1  # the head


def test_the_convolutions_of_decoding_have_its_operations() -> None:
    tokenizer = tiny_tokenizer()
    kernels = decoder_kernels(tokenizer.config, (4, 4), images=2, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokenizer.decoder(torch.randn(2, tokenizer.config.bits, 4, 4))
    assert total_flops(kernels) == counter.get_total_flops()
    assert max(kernel.height for kernel in kernels if isinstance(kernel, Convolution)) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["matrix product", "attention", "convolution"])
def test_every_way_to_compute_a_kernel_gives_the_same(kind: str, dtype: torch.dtype) -> None:
    kernel: Kernel = {
        "matrix product": MatrixProduct(2, 5, 16, 32, dtype),
        "attention": Attention(2, 3, 4, 5, 8, dtype),
        "convolution": Convolution(2, 8, 16, 3, 4, 6, dtype),
    }[kind]
    with torch.inference_mode():
        results = [call().float().flatten(1) for call in kernel.calls(CPU)]
    for other in results[1:]:
        same_layout = other if kind == "convolution" else other.reshape(2, 32, 5).mT.flatten(1)
        close = [torch.allclose(results[0], each, rtol=0.05, atol=0.1) for each in (other, same_layout)]
        assert any(close)
    assert 0 < kernel.fastest_seconds(CPU) < 1


def test_operations_of_kernels_count_every_call() -> None:
    product = MatrixProduct(2, 3, 4, 5, torch.float32)
    assert product.flops == 2 * 2 * 3 * 4 * 5
    assert Attention(1, 2, 3, 4, 5, torch.float32).flops == 2 * 2 * 2 * 3 * 4 * 5
    assert total_flops(Counter({product: 3})) == 3 * product.flops
