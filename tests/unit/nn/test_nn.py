"""Shared layers: rotary positions, the cache, attention, and who computes in which dtype."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitvar.nn.attention import attend
from bitvar.nn.kv_cache import KVCache
from bitvar.nn.linear import Conv2d, Linear
from bitvar.nn.norms import GroupNorm, LayerNorm, PixelNorm, RMSNorm, layer_norm, modulated_norm
from bitvar.nn.rope import apply_rope, rope_table
from tests.support import oracle


def test_rope_is_a_complex_rotation() -> None:
    x = torch.randn(2, 3, 4, 12, generator=torch.Generator().manual_seed(0))
    places = [(0, 0), (1, 0), (0, 3), (63, 47)]
    turned = apply_rope(x, rope_table(torch.tensor(places), 12))
    for index in np.ndindex(2, 3, 4):
        expected = oracle.rotate(x[index].numpy().astype(np.float64), places[index[2]])
        np.testing.assert_allclose(turned[index].numpy(), expected, atol=2e-5)


def test_rope_depends_on_the_difference_of_positions_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def dot(at: tuple[int, int], to: tuple[int, int]) -> torch.Tensor:
        table = rope_table(torch.tensor([at, to]), 8)
        return (apply_rope(q, table[:1]) * apply_rope(k, table[1:])).sum()

    torch.testing.assert_close(dot((2, 5), (4, 1)), dot((12, 25), (14, 21)), atol=1e-5, rtol=0)
    assert (dot((2, 5), (4, 1)) - dot((5, 2), (1, 4))).abs() > 1e-3  # rows and columns are told apart


def test_rope_stays_fp32_for_bf16_heads() -> None:
    x = torch.randn(1, 1, 1, 8).bfloat16()
    assert apply_rope(x, rope_table(torch.tensor([[3, 4]]), 8)).dtype == torch.float32


def cache(capacity: int, *, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache.allocate((2, 3, 4, 8), capacity=capacity, dtype=dtype, device=torch.device("cpu"))


def test_the_cache_joins_the_scales_in_order_for_every_block() -> None:
    kv = cache(5)
    scales = [torch.randn(2, 2, 3, 4, length, 8) for length in (1, 4, 9)]
    done = 0
    for k, scale in enumerate(scales):
        for block in range(2):
            keys, values = kv.layer(block, done).extend(scale[block, 0], scale[block, 1])
            assert torch.equal(keys, torch.cat([s[block, 0] for s in scales[: k + 1]], dim=2))
            assert torch.equal(values, torch.cat([s[block, 1] for s in scales[: k + 1]], dim=2))
        done += scale.shape[4]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_cache_keeps_no_last_scale(dtype: torch.dtype, size: int) -> None:
    kv = cache(5, dtype=dtype)
    assert kv.num_bytes == 2 * 2 * 3 * 4 * 5 * 8 * size
    before = kv.num_bytes
    kv.layer(0, 0).extend(*torch.randn(2, 3, 4, 9, 8).to(dtype))
    assert kv.num_bytes == before


def test_a_narrowed_cache_keeps_its_rows_on_the_same_memory() -> None:
    whole = cache(4)
    k, v = torch.randn(2, 3, 4, 2, 8)
    whole.layer(0, 0).extend(k, v)
    kv = whole.narrow(rows=1, capacity=4)
    assert kv.buffer.data_ptr() == whole.buffer.data_ptr()
    keys, _ = kv.layer(0, 2).extend(k[:1], v[:1])
    assert torch.equal(keys, torch.cat([k[:1], k[:1]], dim=2))
    assert kv.num_bytes == cache(4).num_bytes // 3


def test_attention_looks_only_where_the_mask_is_true() -> None:
    q, k, v = torch.randn(3, 1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])[None, None]
    out = attend(q, k, v, scale=0.3, mask=mask)
    for n in range(2):
        for i in range(3):
            weights = torch.softmax(0.3 * k[0, n, : i + 1] @ q[0, n, i], dim=0)
            torch.testing.assert_close(out[0, n, i], weights @ v[0, n, : i + 1])


def gradients_of(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attention: Callable[..., torch.Tensor]
) -> list[torch.Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (q, k, v)]
    output = attention(*leaves, scale=1.0)
    output.backward(torch.ones_like(output))
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_small_bf16_attention_trains_at_least_as_exactly_as_pytorchs() -> None:
    small = torch.randn(3, 4, 3, 85, 64, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    exact = gradients_of(*(tensor.double() for tensor in small), F.scaled_dot_product_attention)
    plain, ours = (gradients_of(*small, attention) for attention in (F.scaled_dot_product_attention, attend))
    for reference, theirs, mine in zip(exact, plain, ours, strict=True):
        assert mine.dtype == torch.bfloat16
        errors = [(values.double() - reference).square().mean() for values in (mine, theirs)]
        assert errors[0] <= errors[1]
    rounded_once = F.scaled_dot_product_attention(*(tensor.float() for tensor in small), scale=1.0).bfloat16()
    assert torch.equal(ours[0], rounded_once) and not torch.equal(plain[0], rounded_once)


def test_attention_without_gradients_or_with_many_keys_is_pytorchs_own() -> None:
    q, k, v = torch.randn(3, 1, 2, 140, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    short = [tensor[:, :, :128] for tensor in (q, k, v)]
    assert torch.equal(attend(*short, scale=1.0), F.scaled_dot_product_attention(*short, scale=1.0))
    for mine, theirs in zip(
        gradients_of(q, k, v, attend), gradients_of(q, k, v, F.scaled_dot_product_attention), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_layers_compute_in_the_dtype_of_their_input(dtype: torch.dtype, weights: torch.dtype) -> None:
    assert Linear(4, 3).to(weights)(torch.randn(2, 4, dtype=dtype)).dtype == dtype
    assert Conv2d(4, 3).to(weights)(torch.randn(2, 4, 5, 5, dtype=dtype)).dtype == dtype
    for norm in (LayerNorm(4), RMSNorm(4)):
        assert norm.to(weights)(torch.randn(2, 4, dtype=dtype)).dtype == dtype
    for norm in (GroupNorm(4, 2), PixelNorm(4)):
        assert norm.to(weights)(torch.randn(2, 4, 5, 5, dtype=dtype)).dtype == dtype


def test_norms_of_bf16_are_taken_in_fp32() -> None:
    x = (100 + torch.randn(2, 512, generator=torch.Generator().manual_seed(0))).bfloat16()
    wide = x.double()
    exact = (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    assert layer_norm(x).dtype == torch.float32
    torch.testing.assert_close(layer_norm(x).double(), exact, atol=1e-3, rtol=0)
    torch.testing.assert_close(LayerNorm(512)(x), exact.bfloat16())
    root = (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(RMSNorm(512)(x), (wide / root).bfloat16())


def test_modulation_scales_and_shifts_the_norm() -> None:
    x, scale, shift = torch.randn(2, 3, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    torch.testing.assert_close(modulated_norm(x, scale, shift), layer_norm(x) * (1 + scale) + shift)
    assert modulated_norm(x.bfloat16(), scale.bfloat16(), shift.bfloat16()).dtype == torch.bfloat16


def test_pixel_norm_takes_each_place_by_itself() -> None:
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    norm = PixelNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6) + 1)
        norm.bias.copy_(torch.arange(6) - 3)
    exact = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-6).sqrt()
    exact = exact * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), exact.float())
    torch.testing.assert_close(norm(x)[..., 1:2, 2:], norm(x[..., 1:2, 2:]))


def test_group_norm_uses_the_released_epsilon() -> None:
    x = 1e-3 * torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    grouped = x.double().reshape(1, 2, -1)
    exact = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(GroupNorm(4, 2)(x), exact.reshape(x.shape).float())


def test_convolutions_keep_the_size_unless_told_otherwise() -> None:
    x = torch.randn(1, 2, 6, 8)
    assert Conv2d(2, 3)(x).shape == (1, 3, 6, 8)
    assert Conv2d(2, 3, kernel=1)(x).shape == (1, 3, 6, 8)
    assert Conv2d(2, 3, kernel=4, stride=2, padding=1)(x).shape == (1, 3, 3, 4)


def test_a_linear_layer_may_have_no_bias() -> None:
    assert Linear(2, 3, bias=False).bias is None
    assert "2 -> 3" in repr(Linear(2, 3))
    assert "2 -> 3" in repr(Conv2d(2, 3))


def test_a_linear_layer_is_one_to_pytorch_too() -> None:
    layer = Linear(6, 3)
    assert isinstance(layer, torch.nn.Linear)
    assert (layer.in_features, layer.out_features) == (6, 3)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not layer.bias.any()


def test_a_linear_layer_draws_its_weights_and_nothing_else() -> None:
    torch.manual_seed(0)
    layer, after = Linear(6, 3), torch.rand(1)
    torch.manual_seed(0)
    expected = torch.nn.init.trunc_normal_(torch.empty(3, 6), std=6**-0.5)
    assert torch.equal(layer.weight, expected)
    assert torch.equal(after, torch.rand(1))
