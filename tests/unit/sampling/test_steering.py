"""Steering: references, processors, transforms, noise and blending in the one loop, in a batch and image by image."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.runtime.sequential_guidance import HalvesApart
from bitvar.sampling.draw import apply_guidance
from bitvar.sampling.generate import generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.sampling.steering import CERTAIN, ScaleLogits, Steering, force_bits, from_margins, margins
from tests.unit.sampling.test_sampling import MODEL, TALL, sample, texts


@dataclass
class Spy:
    """Keeps the logits that it is given, and applies guidance to those of one condition."""

    chosen: int | None = None
    seen: list[ScaleLogits] = field(default_factory=list)

    def process(self, k: int, logits: ScaleLogits) -> Tensor:
        assert k == len(self.seen)
        self.seen.append(logits)
        return logits.guided(None if self.chosen is None else logits.references[self.chosen])

    def image(self, index: int) -> "Spy":
        return Spy(self.chosen)


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    return all(torch.equal(a.bits, b.bits) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("guidance", [1.0, 2.0, (3.0, 3.0, 1.0, 1.0)], ids=str)
def test_a_reference_in_place_of_the_prompt_draws_the_reference(guidance: Any) -> None:
    options: dict[str, Any] = {"guidance_scale": guidance, "seeds": [1, 2], "negative": texts(2, 4, seed=7)}
    plain = sample(texts(3, 5), **options)
    other = texts(4, 2, seed=9)
    assert equal(sample(other, steering=Steering(Spy(0), (texts(3, 5),)), **options), plain)
    assert equal(sample(texts(3, 5), steering=Steering(Spy(), (other,)), **options), plain)
    assert not equal(sample(other, **options), plain)


def test_each_condition_has_rows_of_its_own() -> None:
    spy, first, second = Spy(), texts(4, 2, seed=9), texts(1, 6, seed=8)
    sample(texts(3, 5), [1, 2], guidance_scale=(2.0, 2.0, 1.0, 1.0), steering=Steering(spy, (first, second)))
    for k, logits in enumerate(spy.seen):
        assert logits.unconditional is not None, "references keep the unconditional rows"
        assert len(logits.references) == 2 and logits.guidance_scale == (2.0 if k < 2 else 1.0)
        assert {part.shape for part in (logits.conditional, logits.unconditional, *logits.references)} == {
            (2, TALL[k][0] * TALL[k][1], 12, 2)
        }
    guided = spy.seen[0].guided(spy.seen[0].references[1])
    unconditional = spy.seen[0].unconditional
    assert unconditional is not None
    assert torch.equal(guided, apply_guidance(spy.seen[0].references[1], unconditional, 2.0))


def test_references_end_where_they_are_no_longer_needed() -> None:
    spy = Spy()
    steering = Steering(spy, (texts(4, 2, seed=9),), last_reference=1)
    steered = sample(texts(3, 5), [1, 2], guidance_scale=2.0, steering=steering)
    assert [len(logits.references) for logits in spy.seen] == [1, 1, 0, 0]
    assert equal(steered, sample(texts(3, 5), [1, 2], guidance_scale=2.0))


@dataclass(frozen=True)
class Ones:
    """Makes every bit of one scale a 1."""

    scale: int

    def transform(self, k: int, logits: Tensor) -> Tensor:
        where = torch.full(logits.shape[:-1], k == self.scale)
        return force_bits(logits, torch.ones_like(where), where)

    def image(self, index: int) -> "Ones":
        return self


@dataclass(frozen=True)
class Constant:
    """The same number for every bit of an image."""

    values: tuple[float, ...]

    def numbers(self, k: int, shape: Any, device: torch.device) -> Tensor:
        return torch.stack([torch.full(tuple(shape), value) for value in self.values])

    def image(self, index: int) -> "Constant":
        return Constant(self.values[index : index + 1])


@dataclass(frozen=True)
class Scaled:
    """Adds each image's codes with a factor of its own."""

    factors: tuple[float, ...]

    def blend(self, k: int, new: Tensor) -> Tensor:
        return new * torch.tensor(self.factors)[:, None, None, None]

    def image(self, index: int) -> "Scaled":
        return Scaled(self.factors[index : index + 1])


def test_transforms_change_what_is_drawn() -> None:
    results = sample(texts(3, 5), [1, 2], steering=Steering(transforms=(Ones(1), Ones(3))))
    assert [bool(result.bits.all()) for result in results] == [False, True, False, True]


def test_noise_replaces_the_seeds() -> None:
    results = sample(texts(3, 5), [1, 2], steering=Steering(noise=Constant((0.0, 1 - 2**-24))))
    for result in results:
        assert result.bits[0].all() and not result.bits[1].any()


def test_a_blend_changes_what_is_added() -> None:
    results = sample(texts(3, 5), [1, 2], steering=Steering(blend=Scaled((0.0, 1.0))))
    plain = sample(texts(3, 5), [1, 2])
    for result, before in zip(results, plain, strict=True):
        assert not result.latent[0].any()
        assert torch.allclose(result.latent[1], before.latent[1], atol=1e-6)


STEERINGS = {
    "references": lambda: Steering(Spy(0), (texts(4, 2, seed=9),)),
    "transforms": lambda: Steering(transforms=(Ones(1),)),
    "noise": lambda: Steering(noise=Constant((0.3, 0.6))),
    "blend": lambda: Steering(blend=Scaled((0.5, 2.0))),
}


@pytest.mark.parametrize("name", STEERINGS)
def test_an_image_is_steered_alike_in_a_batch_and_by_itself(name: str) -> None:
    params, condition = SamplingParams(guidance_scale=2.0), texts(3, 5)
    make = STEERINGS[name]
    together = sample(condition, [7, 8], guidance_scale=2.0, steering=make())
    apart = list(generate_apart(MODEL, condition, TALL, params=params, seeds=[7, 8], steering=make()))
    assert equal(together, apart)


@pytest.mark.parametrize("last_reference", [None, 0, 1])
@pytest.mark.parametrize("references", [1, 2])
def test_halves_apart_decode_any_number_of_conditions(references: int, last_reference: int | None) -> None:
    params = SamplingParams(guidance_scale=(2.0, 2.0, 2.0, 1.0))
    steering = Steering(None, tuple(texts(4, seed=9 + i) for i in range(references)), last_reference=last_reference)

    def drawn(model: Any) -> list[Any]:
        return list(generate(model, texts(3), TALL, params=params, seeds=[7], steering=steering))

    assert equal(drawn(HalvesApart(MODEL)), drawn(MODEL))


def test_forced_bits_are_certain_at_any_temperature() -> None:
    wanted = torch.tensor([[[True, False]]])
    logits = force_bits(torch.zeros(1, 1, 2, 2), wanted, torch.ones_like(wanted))
    assert torch.equal(margins(logits) > 0, wanted)
    odds = margins(logits) / 100.0
    assert torch.equal(torch.sigmoid(odds), wanted.float()) and CERTAIN / 100 > 90


def test_margins_and_logits_are_inverse() -> None:
    odds = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(margins(from_margins(odds)), odds)


def test_steering_of_an_image_takes_its_own_rows() -> None:
    steering = Steering(references=(texts(3, 5),))
    one = steering.image(1).references[0]
    assert isinstance(one, TextCondition) and one.features.shape == (1, 5, 12)
