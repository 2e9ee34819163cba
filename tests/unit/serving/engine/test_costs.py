"""Predicted seconds, and which scales are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvar.serving.engine.costs import ScaleCosts, preview_scales

LENGTHS = (1, 4, 16, 64)
OVERHEAD = 32
"""Cost of a scale beside its tokens', in tokens; as `costs` has it."""


def test_before_any_measurement_more_tokens_cost_more() -> None:
    costs = ScaleCosts()
    assert 0 < costs.image("size", LENGTHS) < costs.image("size", (*LENGTHS, 256))


def test_what_was_measured_is_predicted() -> None:
    costs = ScaleCosts()
    for scale, length in enumerate(LENGTHS):
        costs.record("size", scale, length, 0.1 * (scale + 1))
    assert costs.image("size", LENGTHS) == pytest.approx(1.0)


def test_one_odd_measurement_moves_a_prediction_by_less_than_a_third() -> None:
    costs = ScaleCosts()
    for seconds in (1.0, 1.0, 2.0):
        costs.record("size", 0, 1, seconds)
    assert costs.image("size", (1,)) == pytest.approx(1.3)


def test_a_prediction_follows_a_machine_that_becomes_slower() -> None:
    costs = ScaleCosts()
    for seconds in [1.0] * 5 + [4.0] * 20:
        costs.record("size", 0, 1, seconds)
    assert costs.image("size", (1,)) == pytest.approx(4.0, rel=0.01)


def test_sizes_that_were_not_measured_learn_from_those_that_were() -> None:
    costs = ScaleCosts()
    for _ in range(30):
        costs.record("measured", 0, 68, 2.0)
    assert costs.image("other", (168,)) == pytest.approx(4.0, rel=0.01)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=16), st.integers(0, 64))
def test_previews_are_in_order_and_never_of_the_last_scale(lengths: list[int], count: int) -> None:
    shown = preview_scales(lengths, count)
    assert len(shown) == min(count, len(lengths) - 1)
    assert list(shown) == sorted(set(shown))
    assert all(0 <= scale < len(lengths) - 1 for scale in shown)


@given(st.lists(st.integers(1, 4096), min_size=4, max_size=16).map(sorted))
def test_of_three_previews_the_first_comes_within_a_quarter_of_the_time(lengths: list[int]) -> None:
    """Where a scale boundary is that early, and three previews fit before the last scale."""
    total = sum(length + OVERHEAD for length in lengths)
    first = preview_scales(lengths, 3)[0]
    done = sum(length + OVERHEAD for length in lengths[: first + 1])
    assert done <= total / 4 or first == 0


def test_previews_are_spread_over_the_time() -> None:
    lengths = [side * side for side in (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)]
    assert preview_scales(lengths, 0) == ()
    assert preview_scales(lengths, 3) == (8, 10, 11)
    assert preview_scales(lengths, 64) == tuple(range(12))
    assert preview_scales(LENGTHS, 3) == (0, 1, 2)
