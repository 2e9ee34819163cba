"""The schedule nearest to a size: any size has one, and none is found for what is no size."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvar.errors import UsageError
from bitvar.official_schedules import official_schedules
from bitvar.scales import ScaleSchedule, nearest_schedule

SQUARE = [ScaleSchedule(((1, 1), (2, 2), (4, 4), (8, 8)), (8, 8))]


@pytest.mark.parametrize(("height", "width"), [(0, 64), (64, 0), (-1, 64)])
def test_what_is_no_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(UsageError, match="can't be drawn"):
        nearest_schedule(SQUARE, height=height, width=width, stride=8)


@pytest.mark.parametrize(("width", "height"), [(100, 100), (85, 48), (128, 32), (33, 127)])
def test_sizes_within_a_factor_of_two_have_the_nearest(width: int, height: int) -> None:
    assert nearest_schedule(SQUARE, height=height, width=width, stride=8) is SQUARE[0]


def test_sizes_further_away_are_refused_unless_any_will_do() -> None:
    for height, width in ((129, 64), (64, 31), (4096, 4096)):
        with pytest.raises(UsageError, match="out of this model's range"):
            nearest_schedule(SQUARE, height=height, width=width, stride=8)
        assert nearest_schedule(SQUARE, height=height, width=width, stride=8, tolerance=math.inf) is SQUARE[0]


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_every_size_has_a_nearest_schedule(height: int, width: int) -> None:
    schedules = official_schedules(["1M"])
    found = nearest_schedule(schedules, height=height, width=width, stride=16, tolerance=math.inf)
    distance = abs(math.log(found[-1][0] / found[-1][1] * width / height))
    assert distance <= min(abs(math.log(s[-1][0] / s[-1][1] * width / height)) for s in schedules) + 1e-3
