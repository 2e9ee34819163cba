"""The random numbers of sampling: fixed values, and nothing but seed and scale decides them."""

from typing import Any

import numpy as np
import pytest
import torch

from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.generate import generate
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams
from tests.support.tiny import tiny_pipeline
from tests.unit.sampling.test_sampling import MODEL, TALL, same_bits, sample, texts

SHAPE = (8, 8)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("noise"))


# Written down once: a change of these numbers changes the image of every seed.
@pytest.mark.parametrize(
    ("seed", "scale", "expected"),
    [
        (0, 0, [582872, 193722, 10266821, 4052523]),
        (7, 0, [2746875, 14630964, 16311872, 4955408]),
        (7 + 2**32, 0, [15265082, 9301967, 8835454, 3708623]),
        (2**63 - 1, 9, [11199439, 14514629, 7691672, 12785078]),
    ],
)
def test_the_numbers_are_these(seed: int, scale: int, expected: list[int]) -> None:
    numbers = uniform_noise(seed, scale, (2, 2))
    assert numbers.dtype == torch.float32
    assert (numbers.flatten() * 2**24).tolist() == expected
    theirs = np.random.Generator(np.random.Philox(key=[seed, scale])).random((2, 2), dtype=np.float32)
    assert np.array_equal(numbers.numpy(), theirs)


def test_every_bit_of_a_seed_counts() -> None:
    seeds = [7, *(7 ^ (1 << bit) for bit in range(63))]
    drawn = torch.stack([uniform_noise(seed, 0, SHAPE).flatten() for seed in seeds])
    assert len({row.numpy().tobytes() for row in drawn}) == 64
    centred = drawn - 0.5
    correlation = (centred @ centred.T) * 12 / drawn.shape[1]
    assert correlation.fill_diagonal_(0).abs().max() < 5.5 / drawn.shape[1] ** 0.5  # 2016 pairs: 8e-5


def test_every_scale_has_numbers_of_its_own() -> None:
    drawn = {uniform_noise(seed, scale, SHAPE).numpy().tobytes() for seed in (0, 1, 2**62) for scale in range(14)}
    assert len(drawn) == 42
    assert not torch.equal(uniform_noise(1, 2, SHAPE), uniform_noise(2, 1, SHAPE))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)], ids=str)
def test_any_shape_is_the_beginning_of_one_row(shape: tuple[int, ...]) -> None:
    numbers = uniform_noise(3, 1, shape)
    assert tuple(numbers.shape) == shape
    assert torch.equal(numbers.flatten(), uniform_noise(3, 1, (100,))[: numbers.numel()])


def test_the_numbers_are_uniform() -> None:
    numbers = uniform_noise(11, 0, (100_000,)).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    ranks = torch.arange(100_000) / 100_000
    assert (numbers.sort().values - ranks).abs().max() < 1.95 / 100_000**0.5  # Kolmogorov-Smirnov, p = 0.001


def test_the_global_random_states_are_left_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1]
    uniform_noise(1, 0, SHAPE)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("other", [7 + 2**32, 7 + 2**62, 2**63 - 1], ids=str)
def test_seeds_that_agree_in_their_low_bits_draw_other_bits(pipe: InfinityPipeline, other: int) -> None:
    options: dict[str, Any] = {"output_type": "bits", "guidance_scale": 1.0}
    first, second = (pipe("a dog", seed=seed, **options).images for seed in (7, other))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_prefix_leaves_the_draws_of_later_scales_alone() -> None:
    free = sample(texts(3), [1])
    prefix = PrefixBits([free[k].bits for k in range(2)])
    assert same_bits(sample(texts(3), [1], constraint=prefix), [result.bits for result in free])


def test_seeds_of_any_integer_kind_are_one(pipe: InfinityPipeline) -> None:
    kinds: list[Any] = [5, np.int64(5), np.uint8(5), torch.tensor(5), [5], (5,), np.array([5]), range(5, 6)]
    made = [pipe("a dog", seed=kind) for kind in kinds]
    assert {out.images[0].tobytes() for out in made} == {made[0].images[0].tobytes()}
    assert all(out.seeds == [5] and type(out.seeds[0]) is int for out in made)


def test_there_is_one_seed_an_image() -> None:
    with pytest.raises(AssertionError):
        list(generate(MODEL, texts(3, 5), TALL, params=SamplingParams(), seeds=[1]))
