"""Gates: how a mask reaches the latent, and that what lies outside it stays."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.editing.gate import GatedSource, compose, gate_at, make_gate
from bitvar.editing.masks import box_mask

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_compose_is_exact_at_both_ends() -> None:
    source, new = normal(0, 2, 3, 8, 8) * 1e3, normal(1, 2, 3, 8, 8)
    assert torch.equal(compose(source, new, torch.zeros(1, 1, 8, 8)), source)
    assert torch.equal(compose(source, new, torch.ones(1, 1, 8, 8)), new)
    half = compose(source, new, torch.full((1, 1, 8, 8), 0.5))
    assert torch.allclose(half, (source + new) / 2, atol=1e-3)


def test_the_latent_equals_the_source_where_the_gate_is_0_at_every_scale() -> None:
    bits = [normal(k, 1, 6, *grid) > 0 for k, grid in enumerate(GRIDS)]
    gate = torch.zeros(1, 1, 8, 8)
    gate[..., 4:] = torch.rand(4, generator=torch.Generator().manual_seed(2))
    blend = GatedSource(bits, gate, (1.0,) * 4)
    source, edited = torch.zeros(1, 6, 8, 8), torch.zeros(1, 6, 8, 8)
    for k, grid in enumerate(GRIDS):
        new = pyramid.enlarge(bits_to_codes(normal(10 + k, 1, 6, *grid) > 0), (8, 8))
        source = pyramid.add_scale(source, bits_to_codes(bits[k]))
        edited = edited + blend.blend(k, new)
        assert torch.equal(edited[..., :4], source[..., :4])
        assert not torch.equal(edited[..., 4:], source[..., 4:])


def test_a_hard_gate_covers_the_cells_that_the_mask_touches() -> None:
    gate = make_gate(box_mask((64, 64), (17, 8, 16, 8)), (8, 8), grow=0.0, feather=0.0)
    expected = torch.zeros(8, 8)
    expected[1, 2:5] = 1.0
    assert torch.equal(gate[0, 0], expected)


def test_growing_and_feathering_widen_the_gate() -> None:
    mask = box_mask((64, 64), (24, 24, 8, 8))
    hard = make_gate(mask, (8, 8), grow=0.0, feather=0.0)
    grown = make_gate(mask, (8, 8), grow=1 / 64, feather=0.0)
    soft = make_gate(mask, (8, 8), grow=0.0, feather=1 / 16)
    assert hard.sum() == 1 and grown.sum() == 9
    assert torch.equal(soft[hard == 1], hard[hard == 1]), "the blur takes nothing from the cells of the mask"
    assert 0 < soft[0, 0, 3, 4] < 1 and soft[0, 0, 0, 7] == 0


def test_grey_masks_give_grey_gates() -> None:
    gate = make_gate(Image.new("L", (32, 32), 51), (4, 4), grow=0.0, feather=0.05)
    assert torch.allclose(gate, torch.full((1, 1, 4, 4), 0.2), atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_gate_is_averaged_over_coarser_cells(grid: tuple[int, int]) -> None:
    gate = normal(0, 1, 1, 8, 8).sigmoid()
    side = 8 // grid[0]
    blocks = gate.numpy().reshape(grid[0], side, grid[1], side).mean(axis=(1, 3))
    assert np.allclose(gate_at(gate, grid)[0, 0].numpy(), blocks, atol=1e-6)
