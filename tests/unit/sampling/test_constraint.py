"""Constraints on bits: the hook that prefixes and edits hang on, in a batch and for each image by itself."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.errors import UsageError
from bitvar.sampling.constraint import BitConstraint, PrefixBits
from bitvar.sampling.generate import generate_apart
from bitvar.sampling.params import SamplingParams
from tests.unit.sampling.test_sampling import MODEL, TALL, sample, texts


class KeepOutside:
    """Keeps everything outside a mask: the ten lines that inpainting takes.

    Args:
        bits: Bits of every scale of the source images, `(b, d, h_k, w_k)`.
        masks: Masks of every scale, `(h_k, w_k)`, True where the image may change.
    """

    def __init__(self, bits: list[Tensor], masks: list[Tensor]) -> None:
        self.bits, self.masks = bits, masks

    def needs_draw(self, k: int) -> bool:
        return bool(self.masks[k].any())

    def apply(self, k: int, drawn: Tensor | None, latent: Tensor) -> Tensor:
        return self.bits[k] if drawn is None else torch.where(self.masks[k], drawn, self.bits[k])

    def image(self, index: int) -> "KeepOutside":
        return KeepOutside([scale[index : index + 1] for scale in self.bits], self.masks)


def source(seeds: list[int]) -> list[Tensor]:
    return [result.bits for result in sample(texts(3, 5), seeds)]


def right_half() -> list[Tensor]:
    masks = [torch.zeros(grid, dtype=torch.bool) for grid in TALL.grids]
    for mask in masks[1:]:
        mask[:, mask.shape[1] // 2 :] = True
    return masks


def test_what_lies_outside_a_mask_stays() -> None:
    bits, masks = source([1, 2]), right_half()
    constraint = KeepOutside(bits, masks)
    assert isinstance(constraint, BitConstraint) and isinstance(PrefixBits([]), BitConstraint)
    changed = sample(texts(4, 2, seed=9), [7, 8], constraint=constraint)
    for k, result in enumerate(changed):
        assert torch.equal(result.bits[..., ~masks[k]], bits[k][..., ~masks[k]])
    assert not torch.equal(changed[-1].bits, bits[-1])


def test_a_constraint_sees_the_sum_of_the_coarser_scales() -> None:
    seen: list[Tensor] = []

    class Spy(PrefixBits):
        def apply(self, k: int, drawn: Tensor | None, latent: Tensor) -> Tensor:
            seen.append(latent)
            return super().apply(k, drawn, latent)

    results = sample(texts(3), [1], constraint=Spy([]))
    total = torch.zeros_like(results[0].latent)
    for latent, result in zip(seen, results, strict=True):
        assert torch.equal(latent, total)
        total = pyramid.add_scale(total, bits_to_codes(result.bits))


@pytest.mark.parametrize("kind", ["prefix of all images", "prefix of each image", "mask"])
def test_each_image_by_itself_is_constrained_as_in_the_batch(kind: str) -> None:
    bits = source([1, 2])
    constraint: BitConstraint = {
        "prefix of all images": PrefixBits([scale[0] for scale in bits[:2]]),
        "prefix of each image": PrefixBits(bits[:2]),
        "mask": KeepOutside(bits, right_half()),
    }[kind]
    params = SamplingParams(guidance_scale=2.0)
    together = sample(texts(4, 2, seed=9), [7, 8], guidance_scale=2.0, constraint=constraint)
    apart = list(generate_apart(MODEL, texts(4, 2, seed=9), TALL, params=params, seeds=[7, 8], constraint=constraint))
    assert all(torch.equal(a.bits, b.bits) for a, b in zip(apart, together, strict=True))


@pytest.mark.parametrize("scales", [0, 2, 3, 4])
def test_a_scale_that_needs_no_draw_costs_no_logits_where_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, scales: int
) -> None:
    bits, decoded = source([1, 2]), []
    decode = MODEL.decode_scale
    monkeypatch.setattr(
        MODEL, "decode_scale", lambda tokens, k, state: (decoded.append(k), decode(tokens, k, state))[1]
    )
    sample(texts(3, 5), [1, 2], constraint=PrefixBits(bits[:scales]))
    assert decoded == list(range(len(TALL) - (scales == len(TALL))))


@pytest.mark.parametrize("bits", [None, "10", torch.zeros(2, 2), [torch.zeros(2, 2)], [[True]]])
def test_a_prefix_of_anything_else_is_refused(monkeypatch: pytest.MonkeyPatch, bits: Any) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the tests' own type checks speak first
    with pytest.raises(UsageError, match="takes the bits of each scale"):
        PrefixBits(bits)
