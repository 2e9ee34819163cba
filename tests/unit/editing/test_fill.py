"""Filling from the surroundings, and finding where two prompts disagree."""

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.bits import to_tokens
from bitvar.editing.fill import fill_masked
from bitvar.editing.localize import disagreement, make_local_gate
from bitvar.editing.masks import box_mask
from bitvar.sampling.params import ScaleParams
from bitvar.sampling.steering import from_margins


def test_a_flat_surrounding_continues() -> None:
    image = Image.new("RGBA", (37, 23), (10, 200, 30, 255))
    image.paste((255, 0, 0, 0), (5, 5, 20, 15))
    filled = fill_masked(image, box_mask(image.size, (5, 5, 15, 10)))
    assert np.array_equal(np.asarray(filled), np.asarray(Image.new("RGBA", (37, 23), (10, 200, 30, 255))))


def test_growing_hides_the_edge_of_what_is_covered() -> None:
    image = Image.new("RGBA", (64, 64), "white")
    image.paste("black", (20, 20, 41, 41))
    mask = box_mask(image.size, (20, 20, 20, 20))  # it misses a row and a column
    dark, clean = (np.asarray(fill_masked(image, mask, grow=grow))[20:40, 20:40, 0] for grow in (0.0, 1 / 32))
    assert dark.min() < 240
    assert clean.min() == 255


def test_a_gradient_continues_smoothly_and_nothing_else_changes() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64)[None], 48, axis=0)
    image = Image.fromarray(np.stack([ramp] * 3 + [np.full_like(ramp, 255)], axis=-1).astype(np.uint8))
    mask = box_mask(image.size, (24, 16, 16, 16))
    filled = np.asarray(fill_masked(image, mask)).astype(int)
    outside = np.asarray(mask) == 0
    assert np.array_equal(filled[outside], np.asarray(image)[outside])
    assert np.abs(filled - np.asarray(image))[~outside].max() < 45, "between the colours on both sides"


def test_a_full_mask_leaves_the_image() -> None:
    image = Image.new("RGBA", (8, 8), "red")
    assert fill_masked(image, Image.new("L", (8, 8), 255)) is image


@pytest.mark.parametrize("patch_size", [1, 2])
def test_prompts_disagree_where_bits_fall(patch_size: int) -> None:
    params, sides = [ScaleParams(1.0)] * 3, (2, 4, 8)
    generator = torch.Generator().manual_seed(0)
    bits = [torch.rand(1, 4, side, side, generator=generator) > 0.5 for side in sides]
    source, target = [], []
    for scale in bits:
        certain = (scale.float() * 2 - 1) * 3.0
        doubted = certain.clone()
        doubted[..., scale.shape[-1] // 2 :] *= -1  # the target prompt wants other bits on the right
        source.append(from_margins(to_tokens(certain, patch_size)))
        target.append(from_margins(to_tokens(doubted, patch_size)))
    found = disagreement(bits, source, target, params=params, patch_size=patch_size)
    assert found.shape == (1, 1, 8, 8) and found.max() == 1.0
    assert (found[..., 5:] > 0.9).all() and (found[..., :3] < 0.1).all()
    gate = make_local_gate(found, threshold=0.5, grow=0)
    assert torch.equal(gate[0, 0, 0], torch.tensor([0.0] * 4 + [1.0] * 4))
    assert make_local_gate(found, threshold=0.5, grow=1)[0, 0, 0].sum() == 5
    assert not disagreement(bits, source, source, params=params, patch_size=patch_size).any()
