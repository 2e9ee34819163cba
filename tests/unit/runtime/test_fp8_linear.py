"""Linear layers in e4m3: what is rounded and how, which layers and scales, and that nothing stays behind."""

import pytest
import torch
import torch.nn.functional as F

from bitvar.nn.linear import Linear, linear_gelu
from bitvar.runtime.fp8_linear import (
    LARGEST,
    MIN_TOKENS,
    Fp8Kernel,
    Fp8Linear,
    Rows,
    emulated_product,
    fp8_product,
    round_rows,
)
from tests.support.tiny import tiny_tokenizer, tiny_transformer


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_row_uses_the_whole_range() -> None:
    x = random(6, 32) * torch.tensor([1e-6, 1e-2, 1.0, 50.0, 1e4, 0.0])[:, None]
    values, scale = round_rows(x)
    assert values.dtype == torch.float8_e4m3fn
    assert values.float().abs().amax(dim=1).tolist() == [LARGEST] * 5 + [0.0]
    rounded = values.float() * scale
    assert ((rounded - x).abs() <= x.abs() / 16 + scale * 2**-10).all()  # three bits of mantissa; steps of 2^-9 below
    assert rounded.isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_the_kernel_of_the_device_computes_the_emulated_product(bias: bool, device: torch.device) -> None:
    x, weight = (round_rows(random(n, 64, seed=n).to(device)) for n in (48, 32))
    b = random(32).bfloat16().to(device) if bias else None
    got, expected = (product(x, weight, b, torch.bfloat16) for product in (fp8_product, emulated_product))
    assert (got.float() - expected.float()).abs().max() <= 2**-7 * expected.abs().max()


def test_small_scales_and_other_precisions_are_computed_as_usual() -> None:
    layer, calls = Linear(32, 16), list[int]()

    def product(x: Rows, *given: object) -> torch.Tensor:
        calls.append(len(x.values))
        return emulated_product(x, *given)  # type: ignore[arg-type]

    layer.kernel = Fp8Kernel(product)
    weight, bias = layer.weight.bfloat16(), layer.bias.bfloat16()
    with torch.no_grad():
        small, large = random(2, MIN_TOKENS - 1, 32).bfloat16(), random(2, MIN_TOKENS, 32).bfloat16()
        assert torch.equal(layer(small), F.linear(small, weight, bias))
        assert torch.equal(layer(large.float()), F.linear(large.float(), layer.weight, layer.bias))
        assert not calls
        plain = F.linear(large, weight, bias)
        assert 0.001 < (layer(large) - plain).float().std() / plain.float().std() < 0.06
        gelu = linear_gelu(layer, large)
        assert (gelu - F.gelu(plain, approximate="tanh")).float().std() < 0.06
        assert calls == [2 * MIN_TOKENS] * 2


def test_the_layers_are_the_large_ones_without_outliers() -> None:
    model = tiny_transformer()
    chosen = {id(layer) for layer in Fp8Linear(model, tiny_tokenizer()).layers()}
    names = [name for name, module in model.named_modules() if id(module) in chosen]
    layers = ("self_attention.qkv", "self_attention.proj", "cross_attention.q", "cross_attention.proj", "fc1")
    assert names == [f"blocks.{block}.{layer}" for block in range(2) for layer in layers]


def test_changed_weights_count_and_undo_leaves_nothing() -> None:
    model = tiny_transformer().bfloat16()
    optimization, layer = Fp8Linear(model, tiny_tokenizer()), model.blocks[0].fc1
    names = set(model.state_dict())
    optimization.apply()
    x = random(1, MIN_TOKENS, 32).bfloat16()
    with torch.no_grad():
        before = layer(x)
        layer.weight.mul_(2)
        assert not torch.equal(layer(x), before)
        assert set(model.state_dict()) == names
        optimization.undo()
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
