"""The methods' rules on log-odds: bounds for each bit, and nothing where two prompts agree."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.editing.processors import BitTest, Difference, Inversion, Tilt, divergence, within_trust
from bitvar.sampling.draw import draw_bits
from bitvar.sampling.noise import batch_noise
from bitvar.sampling.params import ScaleParams
from bitvar.sampling.steering import ScaleLogits, from_margins, margins

PARAMS = ScaleParams(guidance_scale=1.0)
SHAPE = (1, 40, 25)


def normal(seed: int, *, scale: float = 2.0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits(target: Tensor, *references: Tensor) -> ScaleLogits:
    return ScaleLogits(from_margins(target), None, tuple(map(from_margins, references)), 1.0)


def drawn(processor: Any, given: ScaleLogits, seeds: list[int] | None = None, params: ScaleParams = PARAMS) -> Tensor:
    seeds = seeds or [5]
    made = processor.process(0, given)
    return draw_bits(made, params, batch_noise(seeds, 0, made.shape[1:3], made.device))


BITS = normal(1) > 0
SOURCE = normal(2)
METHODS = {
    "inversion": lambda params: Inversion([BITS], [from_margins(SOURCE)], [params], [5]),
    "bit-test": lambda params: BitTest([BITS], [from_margins(SOURCE)], [params], 0.2),
    "difference": lambda params: Difference([BITS], [params], 0.7),
}


@pytest.mark.parametrize(
    "params", [PARAMS, ScaleParams(1.0, 0.3, 0, 0.0), ScaleParams(1.0, 1.0, 0, 0.9), ScaleParams(1.0, 0.0, 0, 0.0)]
)
@pytest.mark.parametrize("name", METHODS)
def test_the_same_prompt_twice_changes_nothing(name: str, params: ScaleParams) -> None:
    assert torch.equal(drawn(METHODS[name](params), logits(SOURCE, SOURCE), params=params), BITS)


@pytest.mark.parametrize("name", METHODS)
def test_an_opposite_prompt_changes_bits(name: str) -> None:
    changed = drawn(METHODS[name](PARAMS), logits(-SOURCE, SOURCE)) != BITS
    assert 0.2 < changed.float().mean() < 0.9


def test_inversion_draws_from_the_target_distribution_with_the_fewest_changes() -> None:
    source, target = torch.full((1, 300, 100), 0.8), torch.full((1, 300, 100), -0.4)
    before = draw_bits(from_margins(source), PARAMS, batch_noise([3], 0, (300, 100), source.device))
    after = drawn(Inversion([before], [from_margins(source)], [PARAMS], [9]), logits(target), seeds=[9])
    p_source, p_target = torch.sigmoid(torch.tensor([0.8, -0.4])).tolist()
    assert after.float().mean().item() == pytest.approx(p_target, abs=0.01)
    assert not (after & ~before).any(), "no bit becomes a 1 where a 1 is less probable"
    assert (after != before).float().mean().item() == pytest.approx(p_source - p_target, abs=0.01)


def test_inversion_keeps_images_that_the_model_would_never_draw() -> None:
    impossible = torch.where(BITS, -50.0, 50.0)
    processor = Inversion([BITS], [from_margins(impossible)], [PARAMS], [5])
    assert torch.equal(drawn(processor, logits(impossible)), BITS)


def test_the_bit_test_keeps_all_but_the_bits_that_fall() -> None:
    target, threshold = normal(3), 0.2
    before, after = torch.sigmoid(SOURCE), torch.sigmoid(target)
    fall = torch.where(BITS, before - after, after - before)
    for seed in range(3):
        made = drawn(BitTest([BITS], [from_margins(SOURCE)], [PARAMS], threshold), logits(target), seeds=[seed])
        assert torch.equal(made[fall <= threshold], BITS[fall <= threshold])
        assert not torch.equal(made[fall > threshold], BITS[fall > threshold])
    assert torch.equal(drawn(BitTest([BITS], [from_margins(SOURCE)], [PARAMS], 1.0), logits(target)), BITS)


def test_difference_flips_where_the_shift_exceeds_the_confidence() -> None:
    target, confidence = normal(3), 0.7
    shift = torch.sigmoid(target) - torch.sigmoid(SOURCE)
    against = torch.where(BITS, -shift, shift)
    made = drawn(Difference([BITS], [PARAMS], confidence), logits(target, SOURCE))
    assert torch.equal(made != BITS, against > confidence - 0.5 - 1e-7)


@pytest.mark.parametrize("trust", [0.0, 0.05, 0.3, 2.0])
def test_the_trust_region_bounds_every_bit(trust: float) -> None:
    guided, source = normal(4), normal(5)
    tilt = Tilt([torch.ones(SHAPE), torch.ones(SHAPE)], 2.4, trust)
    made = margins(tilt.process(0, logits(guided, source)))
    assert divergence(made, guided).max().item() <= trust + 1e-5
    assert (made - guided).abs().max().item() <= 5.0 + 1e-5
    assert ((made - guided) * (guided - source) >= 0).all(), "it moves away from the source prompt"
    assert trust == 0 or (made - guided).abs().max().item() > 0.1


def test_the_trust_region_is_used_up_where_the_push_wants_more() -> None:
    guided, wanted = normal(4), normal(4) + 4.0
    spent = divergence(within_trust(guided, wanted, 0.05), guided)
    assert (spent > 0.045).float().mean() > 0.9


def test_a_tilt_acts_within_the_gate_and_fades() -> None:
    gate = (normal(6) > 0).float()
    tilt = Tilt([gate, gate], 2.0, 100.0)
    guided, source = normal(4), normal(5)
    first = margins(tilt.process(0, logits(guided, source)))
    assert torch.equal(first[gate == 0], guided[gate == 0]) and not torch.equal(first[gate == 1], guided[gate == 1])
    assert torch.equal(margins(tilt.process(1, logits(guided, source))), guided)


def test_divergence_is_that_of_two_coins() -> None:
    p, q = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert divergence(torch.logit(p), torch.logit(q)).item() == pytest.approx(expected.item(), rel=1e-6)
