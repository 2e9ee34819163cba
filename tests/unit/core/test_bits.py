"""Bits, codes, and patches of bits."""

import numpy as np
import pytest
import torch

from bitvar.bits import bits_to_codes, quantize, straight_through, to_cells, to_tokens
from tests.support import oracle


def random_bits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("d", [1, 4, 14, 32])
def test_codes_lie_on_the_unit_sphere(d: int) -> None:
    codes = bits_to_codes(random_bits(2, d, 3, 5))
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(2, 3, 5))


def test_true_is_plus_and_false_is_minus() -> None:
    bits = torch.tensor([True, False, False, True]).reshape(1, 4, 1, 1)
    assert bits_to_codes(bits).flatten().tolist() == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("d", [1, 14, 32])
def test_quantizing_codes_gives_their_bits(d: int) -> None:
    bits = random_bits(2, d, 4, 3)
    assert torch.equal(quantize(bits_to_codes(bits)), bits)


def test_quantizing_ignores_length_and_says_no_to_zero() -> None:
    residual = torch.tensor([1e-8, -1e-8, 0.0, 7.0]).reshape(1, 4, 1, 1)
    assert quantize(residual).flatten().tolist() == [True, False, False, True]


def test_straight_through_has_the_codes_value_and_the_spheres_gradient() -> None:
    residual = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    codes = bits_to_codes(quantize(residual.detach()))
    through = straight_through(codes, residual)
    torch.testing.assert_close(through.detach(), codes)
    weight = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((through * weight).sum(), residual)
    unit = residual / residual.square().sum(dim=1, keepdim=True).sqrt()
    (expected,) = torch.autograd.grad((unit * weight).sum(), residual)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 2)])
def test_tokens_and_cells_are_inverse(patch_size: int, grid: tuple[int, int]) -> None:
    cells = torch.randn(2, 3, grid[0] * patch_size, grid[1] * patch_size)
    tokens = to_tokens(cells, patch_size)
    assert tokens.shape == (2, grid[0] * grid[1], 3 * patch_size**2)
    assert torch.equal(to_cells(tokens, grid, patch_size), cells)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_tokens_equal_the_oracles(patch_size: int) -> None:
    cells = torch.arange(3 * 4 * 6, dtype=torch.float32).reshape(1, 3, 4, 6)
    expected = oracle.unshuffle(cells[0].numpy(), patch_size)
    np.testing.assert_array_equal(to_tokens(cells, patch_size)[0].numpy(), expected)
