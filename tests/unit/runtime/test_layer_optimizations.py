"""Kernels that replace layers in inference agree with the plain layers, and follow their weights."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.nn.linear import Linear, channels_last, linear_gelu
from bitvar.runtime.folded_upsampling import FoldedKernel, FoldedUpsampling, fold
from bitvar.runtime.int8_linear import Int8Kernel, Int8Linear
from bitvar.runtime.packed_linear import PackedKernel, PackedLinear
from bitvar.runtime.prepared import Prepared
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.tokenizer.autoencoder import Upsample
from bitvar.transformer import InfinityTransformer
from tests.support.tiny import TEXT_WIDTH, tiny_tokenizer, tiny_transformer

KERNELS = {"packed": PackedKernel, "int8": Int8Kernel}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest difference from the plain layer, as a share of its largest output."""

needs_packing = pytest.mark.skipif(not PackedLinear.available(), reason="this PyTorch has no oneDNN")
needs_int8 = pytest.mark.skipif(not Int8Linear.available(), reason="this processor has no VNNI")


def linear(inputs: int = 48, outputs: int = 80, *, bias: bool = True) -> Linear:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs, bias=bias)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer.requires_grad_(False)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@needs_packing
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (2, 1, 48), (2, 19, 48), (3, 600, 48)])
def test_a_packed_layer_computes_the_plain_one(dtype: torch.dtype, bias: bool, shape: tuple[int, ...]) -> None:
    layer, x = linear(bias=bias), torch.randn(shape).to(dtype)
    with torch.inference_mode():
        plain, activated = layer(x), linear_gelu(layer, x)
        layer.kernel = PackedKernel()
        packed, fused = layer(x), linear_gelu(layer, x)
    assert packed.dtype == fused.dtype == dtype
    assert difference(packed, plain) < TOLERANCE[dtype]
    assert difference(fused, activated) < TOLERANCE[dtype]


@needs_packing
def test_any_layout_of_the_input_will_do() -> None:
    layer, x = linear(), torch.randn(48, 5, 2).transpose(0, 2)
    with torch.inference_mode():
        plain = layer(x)
        layer.kernel = PackedKernel()
        assert difference(layer(x), plain) < TOLERANCE[torch.float32]


@needs_int8
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(1, 48), (2, 19, 48)])
def test_an_int8_layer_is_close_to_the_plain_one(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    layer, x = linear(), torch.randn(shape).to(dtype)
    x[..., :1, :] *= 100  # another token's outlier costs no other token its precision
    with torch.inference_mode():
        plain, activated = layer(x), linear_gelu(layer, x)
        layer.kernel = Int8Kernel()
        coarse, fused = layer(x), linear_gelu(layer, x)
    assert coarse.dtype == fused.dtype == dtype
    for row, expected in zip(coarse.flatten(0, -2), plain.flatten(0, -2), strict=True):
        assert 0 < difference(row, expected) < 0.03
    assert 0 < difference(fused, activated) < 0.03


@needs_int8
def test_int8_takes_zeros_and_keeps_tokens_apart() -> None:
    layer, x = linear(bias=False), torch.randn(2, 9, 48)
    x[0, 3] = 0
    with torch.inference_mode():
        layer.kernel = Int8Kernel()
        both = layer(x)
        assert not both[0, 3].any()
        assert torch.equal(both[1:], layer(x[1:]))


@needs_int8
def test_int8_sums_do_not_saturate() -> None:
    layer = linear(4096, 8, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    with torch.inference_mode():
        layer.kernel = Int8Kernel()
        assert layer(torch.ones(3, 4096)).sub(4096).abs().max() < 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
        lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": layer.weight * 2}),
    ],
    ids=["in place", "data", "state"],
)
@pytest.mark.parametrize("kind", [pytest.param("packed", marks=needs_packing), pytest.param("int8", marks=needs_int8)])
def test_changed_weights_are_prepared_again(kind: str, change: Callable[[Linear], Any]) -> None:
    layer, x = linear(bias=False), torch.randn(4, 48)
    with torch.no_grad():
        layer.kernel = KERNELS[kind]()
        before = layer(x)
        change(layer)
        assert torch.equal(layer(x), 2 * before)


@needs_packing
def test_weights_are_prepared_once() -> None:
    calls: list[Tensor] = []
    prepared = Prepared(lambda weight: calls.append(weight) or len(calls))
    weight = torch.randn(3, 3)
    assert [prepared.of(weight, torch.float32) for _ in range(3)] == [1, 1, 1]
    assert prepared.of(weight, torch.bfloat16) == 2
    assert prepared.of(weight, torch.float32) == 1


@needs_packing
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_a_copied_layer_prepares_its_own_weights(way: Any) -> None:
    layer, x = linear(bias=False), torch.randn(4, 48)
    with torch.no_grad():
        layer.kernel = PackedKernel()
        before = layer(x)
        twin = way(layer)
        assert isinstance(twin.kernel, PackedKernel)
        assert twin.kernel is not layer.kernel
        twin.weight.mul_(2)
        assert torch.equal(twin(x), 2 * before)
        assert torch.equal(layer(x), before)


@needs_packing
def test_training_computes_the_plain_layer() -> None:
    layer, x = linear(), torch.randn(4, 48)
    layer.requires_grad_(True)
    expected = F.gelu(F.linear(x, layer.weight, layer.bias), approximate="tanh")
    layer.kernel = PackedKernel()
    fused = linear_gelu(layer, x)
    assert torch.equal(fused, expected)
    fused.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 4), (7, 16)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_folded_upsampling_computes_the_plain_layer(size: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = channels_last(Upsample(24)).requires_grad_(False)
    x = torch.randn(2, 24, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        plain = layer(x)
        layer.kernel = FoldedKernel()
        folded = layer(x)
    assert folded.dtype == dtype
    assert folded.shape == plain.shape
    assert difference(folded, plain) < TOLERANCE[dtype]


def test_folding_adds_up_the_taps_that_read_one_pixel() -> None:
    weight = torch.arange(9.0).reshape(1, 1, 3, 3)
    folded = fold(weight)[0, 0]
    assert folded.sum() == 4 * weight.sum()
    assert folded[1, 1] == 4 + 5 + 7 + 8  # the pixel under an even output is read by the lower right taps
    assert folded[3, 3] == 0  # the one before it, by the upper left tap


def test_folded_tokenizer_decodes_whole_and_in_tiles() -> None:
    tokenizer = tiny_tokenizer()
    latent = torch.randn(1, 4, 8, 12)

    def decoded() -> tuple[Tensor, Tensor]:
        whole = tokenizer.decode(latent)
        tiled = torch.empty_like(whole)
        for rows, columns, pixels in tokenizer.tiled_pixels(latent, tile=16):
            tiled[..., rows, columns] = pixels
        return whole, tiled

    optimization = FoldedUpsampling(tiny_transformer(), tokenizer)
    with torch.inference_mode():
        plain = decoded()
        optimization.apply()
        folded = decoded()
        assert all(layer.kernel._folded._kept for layer in optimization.layers())  # it was used
        optimization.undo()
        assert torch.equal(decoded()[0], plain[0])
    for found, expected in zip(folded, plain, strict=True):
        assert (found - expected).abs().max() < 1e-4


def drawn(model: InfinityTransformer, dtype: torch.dtype) -> list[Tensor]:
    """The bits of eight images with guidance."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(3 + row % 4, TEXT_WIDTH, generator=generator) for row in range(8)]
    condition, schedule = TextCondition.from_list(features), model.config.all_schedules()[0]
    params = SamplingParams(guidance_scale=3.0).complete()
    return [r.bits for r in generate(model.to(dtype), condition, schedule, params=params, seeds=range(8))]


@needs_packing
def test_packing_changes_no_bit_in_fp32_and_few_in_bf16() -> None:
    for dtype, most in ((torch.float32, 0.0), (torch.bfloat16, 0.05)):
        model = tiny_transformer(depth=3, width=64)
        nn.init.normal_(model.head.weight, std=0.5, generator=torch.Generator().manual_seed(2))
        plain = drawn(model, dtype)
        PackedLinear(model, tiny_tokenizer()).apply()
        packed = drawn(model, dtype)
        changed = sum((a != b).sum().item() for a, b in zip(plain, packed, strict=True))
        assert changed <= most * sum(bits.numel() for bits in plain)


@needs_int8
def test_int8_leaves_the_head_and_the_text_as_they_are() -> None:
    model = tiny_transformer()
    Int8Linear(model, tiny_tokenizer()).apply()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    assert "blocks.0.fc1" in layers
    assert {name for name, layer in layers.items() if layer.kernel} == {n for n in layers if n.startswith("blocks.")}
