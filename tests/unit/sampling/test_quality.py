"""Options of quality: curves over scales, the adaptive temperature, and spatial guidance."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.sampling.generate import generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.sampling.quality import DIVERSE_CONFIDENCE, PRESETS, QualityOptions, spread
from bitvar.sampling.quality_transforms import (
    MAX_FACTOR,
    AdaptiveTemperature,
    SpatialGuidance,
    enlarge_spectrum,
    factor_for_confidence,
    mean_confidence,
    quality_transforms,
)
from bitvar.sampling.steering import Steering, force_bits, from_margins, margins
from tests.unit.sampling.test_sampling import TALL, rough_model, texts

CERTAIN_MODEL = rough_model(2)


def odds(*shape: int, seed: int = 0, scale: float = 4.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_curve_fits_any_number_of_scales() -> None:
    assert spread((1.0, 2.0, 4.0), 3) == (1.0, 2.0, 4.0)
    assert spread((1.0, 2.0, 4.0), 5) == (1.0, 1.5, 2.0, 3.0, 4.0)
    assert spread((1.0, 0.0), 3) == (1.0, 0.5, 0.0)
    assert spread(2.0, 3) == spread((2.0,), 3) == (2.0, 2.0, 2.0)
    assert spread((1.0, 2.0), 1) == (1.0,)
    assert spread(DIVERSE_CONFIDENCE, 13) == DIVERSE_CONFIDENCE
    assert spread(DIVERSE_CONFIDENCE, 4) == pytest.approx((0.60, 0.75, 1.0, 1.0))


def test_the_factor_meets_the_target_of_each_image() -> None:
    log_odds = torch.cat([odds(1, 6, 8), odds(1, 6, 8, seed=1, scale=8.0), odds(1, 6, 8, seed=2, scale=0.1)])
    factor = factor_for_confidence(log_odds, 0.7)
    reached = mean_confidence(log_odds / factor, torch.ones_like(log_odds)).flatten()
    assert reached[:2].tolist() == pytest.approx([0.7, 0.7], abs=1e-4)
    assert 1 < factor[0] < factor[1] < MAX_FACTOR
    assert factor[2] == 1 and reached[2] < 0.7, "an image that is uncertain enough is left as it is"
    assert factor_for_confidence(100 * log_odds[:1], 0.6).item() == pytest.approx(MAX_FACTOR, abs=1e-4)


def test_the_temperature_counts_as_it_is_drawn() -> None:
    log_odds = odds(2, 6, 8)
    cool = AdaptiveTemperature((0.7,), (0.5,)).transform(0, from_margins(log_odds))
    plain = AdaptiveTemperature((0.7,), (1.0,)).transform(0, from_margins(2 * log_odds))
    assert torch.allclose(margins(cool) / 0.5, margins(plain), atol=1e-5)


@pytest.mark.parametrize(("target", "temperature"), [(1.0, 1.0), (0.6, 0.0)])
def test_a_target_of_1_and_a_greedy_scale_change_nothing(target: float, temperature: float) -> None:
    logits = from_margins(odds(2, 6, 8))
    assert AdaptiveTemperature((target,), (temperature,)).transform(0, logits) is logits


def test_forced_bits_stay_forced_and_do_not_count() -> None:
    log_odds = odds(1, 6, 8)
    where = torch.zeros(1, 6, 8, dtype=torch.bool)
    where[:, :3] = True
    forced = force_bits(from_margins(log_odds), log_odds > 0, where)
    hotter = margins(AdaptiveTemperature((0.7,), (1.0,)).transform(0, forced))
    assert torch.equal(hotter[:, :3], margins(forced)[:, :3])
    free = hotter[:, 3:]
    assert mean_confidence(free, torch.ones_like(free)).item() == pytest.approx(0.7, abs=1e-4)


def test_enlarging_keeps_constants_and_cosines() -> None:
    assert torch.allclose(enlarge_spectrum(torch.full((1, 2, 2, 3), 3.0), (5, 4)), torch.tensor(3.0), atol=1e-6)

    def wave(size: int) -> Tensor:
        return torch.cos(math.pi * (torch.arange(size) + 0.5) / size).expand(1, 1, size, size)

    assert torch.allclose(enlarge_spectrum(wave(3), (7, 7)), wave(7), atol=1e-5)
    assert torch.allclose(enlarge_spectrum(wave(7), (7, 7)), wave(7), atol=1e-5)


def test_spatial_guidance_pushes_away_from_the_scale_before() -> None:
    first, second = torch.full((1, 1, 4), 2.0), odds(1, 4, 4)
    guidance = SpatialGuidance((9.0, 0.5, 0.0), ((1, 1), (2, 2), (2, 2)), 1)
    assert torch.equal(margins(guidance.transform(0, from_margins(first))), first)
    pushed = margins(guidance.transform(1, from_margins(second)))
    assert torch.allclose(pushed, second + 0.5 * (second - 2.0), atol=1e-5)
    assert torch.equal(margins(guidance.transform(2, from_margins(second))), second)


def test_spatial_guidance_starts_anew_where_a_scale_was_not_drawn() -> None:
    logits = from_margins(odds(1, 4, 4))
    guidance = SpatialGuidance((1.0, 1.0, 1.0), ((2, 2), (2, 2), (2, 2)), 1)
    guidance.transform(0, 3 * logits)
    assert torch.equal(guidance.transform(2, logits), logits)
    guidance.transform(0, 3 * logits)
    assert torch.equal(guidance.image(0).transform(1, logits), logits)
    assert not torch.equal(guidance.transform(1, logits), logits)


def test_spatial_guidance_knows_the_cells_of_a_token() -> None:
    cells = torch.arange(16.0).view(1, 1, 4, 4)
    guidance = SpatialGuidance((0.0, 1.0), ((2, 2), (2, 2)), 2)
    tokens = torch.nn.functional.pixel_unshuffle(cells, 2).flatten(2).transpose(1, 2)
    guidance.transform(0, from_margins(tokens))
    assert torch.allclose(margins(guidance.transform(1, from_margins(tokens))), tokens, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"confidence": 0.6}, {"spatial_guidance": 1.0}, {"confidence": 0.6, "spatial_guidance": (1.0, 0.0)}]
)
def test_an_image_is_drawn_alike_in_a_batch_and_by_itself(options: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0.2)

    def steering() -> Steering:
        scales = params.scales(len(TALL))
        made = quality_transforms(QualityOptions(**options), TALL, scales, patch_size=2)
        return Steering(transforms=made)

    plain, together, apart = (
        list(make(CERTAIN_MODEL, texts(3, 5), TALL, params=params, seeds=[7, 8], steering=hooks))
        for make, hooks in ((generate, None), (generate, steering()), (generate_apart, steering()))
    )
    assert all(torch.equal(a.bits, b.bits) for a, b in zip(together, apart, strict=True))
    assert not all(torch.equal(a.bits, b.bits) for a, b in zip(together, plain, strict=True))


def test_no_options_need_no_transforms() -> None:
    options = QualityOptions(temperature=(1.0, 0.5))
    assert quality_transforms(options, TALL, SamplingParams().scales(len(TALL)), patch_size=1) == ()
    assert options.sampling(4).temperature == pytest.approx((1.0, 5 / 6, 2 / 3, 0.5))
    assert options.sampling(4).guidance_scale is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_names_and_survive_json(name: str) -> None:
    preset = QualityOptions.of(name)
    assert preset == PRESETS[name] and QualityOptions.model_validate_json(preset.model_dump_json()) == preset
    assert preset != QualityOptions()


@pytest.mark.parametrize(
    "wrong",
    ["varid", {"confidence": 0.5}, {"confidence": ()}, {"temperature": -1}, {"spatial_guidance": 101}, {"x": 1}],
)
def test_wrong_options_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        QualityOptions.of(wrong)
