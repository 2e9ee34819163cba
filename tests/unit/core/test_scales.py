"""The schedule table, and what a schedule knows of its tokens."""

import json
from pathlib import Path

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.official_schedules import BUDGETS, OFFICIAL_STRIDE, official_schedule, official_schedules, ratio_names
from bitvar.scales import ScaleSchedule, nearest_schedule
from tests.support import oracle

TABLE = json.loads((Path(__file__).parents[2] / "reference" / "schedules.json").read_text())
CELLS = [(ratio, budget) for ratio, budgets in TABLE.items() for budget in budgets]


def test_the_table_is_whole() -> None:
    assert set(ratio_names()) == set(TABLE)
    assert len(CELLS) == 15 * 4
    assert all(set(budgets) == set(BUDGETS) for budgets in TABLE.values())


@pytest.mark.parametrize(("ratio", "budget"), CELLS)
def test_every_schedule_equals_the_official_one(ratio: str, budget: str) -> None:
    schedule, entry = official_schedule(ratio, budget), TABLE[ratio][budget]
    assert [list(grid) for grid in schedule] == entry["grids"]
    assert [side * OFFICIAL_STRIDE for side in schedule[-1]] == entry["pixels"]


@pytest.mark.parametrize(("ratio", "budget"), CELLS)
def test_the_reference_grid_is_the_1M_one_whatever_the_budget(ratio: str, budget: str) -> None:
    assert list(official_schedule(ratio, budget).reference) == TABLE[ratio]["1M"]["grids"][-1]


def test_square_1M_has_the_published_token_count() -> None:
    schedule = official_schedule("1.0", "1M")
    assert (len(schedule), schedule.num_tokens) == (13, 10_521)


@pytest.mark.parametrize(
    ("ratio", "budget"), [("1.0", "0.25M"), ("0.666", "0.06M"), ("3.0", "0.06M"), ("1.75", "0.25M")]
)
def test_positions_equal_a_slow_loop(ratio: str, budget: str) -> None:
    schedule = official_schedule(ratio, budget)
    assert [tuple(row) for row in schedule.positions().tolist()] == oracle.positions(schedule.grids, schedule.reference)


def test_positions_round_half_to_even() -> None:
    schedule = ScaleSchedule(((1, 1), (4, 2)), (10, 5))
    rows, columns = schedule.positions()[1:].T.tolist()
    assert rows == [0, 0, 2, 2, 5, 5, 8, 8]  # 0, 2.5, 5, 7.5
    assert columns == [0, 2] * 4  # 0, 2.5


def test_offsets_and_scale_index_agree() -> None:
    schedule = official_schedule("1.5", "0.06M")
    index = schedule.scale_index()
    assert len(index) == schedule.num_tokens == sum(h * w for h, w in schedule)
    for k, (h, w) in enumerate(schedule):
        part = schedule.tokens(k)
        assert part.stop - part.start == h * w == schedule.lengths[k]
        assert part.start == schedule.offsets[k] == sum(schedule.lengths[:k])
        assert torch.equal(index[part], torch.full((h * w,), k))


def test_a_token_of_a_patched_model_covers_2x2_cells() -> None:
    schedule = ScaleSchedule(((1, 1), (2, 3)), (4, 6))
    assert schedule.latent_grids(2) == ((2, 2), (4, 6))
    assert schedule.latent_grids(1) == schedule.grids


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (256, 256, (256, 256)),
        (300, 300, (256, 256)),
        (240, 320, (240, 320)),
        (320, 240, (320, 240)),
        (200, 330, (192, 336)),  # 0.6: 0.571 is nearer than 0.666
        (330, 190, (336, 192)),
        (1000, 1000, (1024, 1024)),
    ],
)
def test_the_nearest_size(height: int, width: int, expected: tuple[int, int]) -> None:
    found = nearest_schedule(official_schedules(("0.06M", "1M")), height=height, width=width, stride=16)
    assert (found[-1][0] * 16, found[-1][1] * 16) == expected


@pytest.mark.parametrize("ratio", ratio_names())
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_size_of_the_table_finds_itself(ratio: str, budget: str) -> None:
    height, width = TABLE[ratio][budget]["pixels"]
    assert nearest_schedule(official_schedules(tuple(BUDGETS)), height=height, width=width, stride=16) == (
        official_schedule(ratio, budget)
    )


def test_the_ratio_comes_before_the_area() -> None:
    square, wide = ScaleSchedule(((1, 1), (8, 8)), (8, 8)), ScaleSchedule(((1, 1), (8, 16)), (8, 16))
    assert nearest_schedule([square, wide], height=128, width=256, stride=8, tolerance=4) is wide
    assert nearest_schedule([square, wide], height=90, width=90, stride=8) is square


@pytest.mark.parametrize(("height", "width"), [(4096, 4096), (64, 64), (256, 4096)])
def test_a_size_out_of_range_is_refused(height: int, width: int) -> None:
    with pytest.raises(UsageError, match=r"out of this model's range[\s\S]*256x256"):
        nearest_schedule([official_schedule("1.0", "0.06M")], height=height, width=width, stride=16)


@pytest.mark.parametrize(
    ("ratio", "budget", "named"), [("1.1", "1M", "ratio '1.1'"), ("1.0", "2M", "pixel budget '2M'")]
)
def test_unknown_names_are_refused(ratio: str, budget: str, named: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown {named}"):
        official_schedule(ratio, budget)


@pytest.mark.parametrize("grids", [(), ((2, 2), (4, 4)), ((1, 2), (4, 4))])
def test_a_schedule_begins_with_one_token(grids: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UsageError, match="must begin with"):
        ScaleSchedule(grids, (4, 4))


@pytest.mark.parametrize("grids", [((1, 1), (4, 4), (2, 2)), ((1, 1), (4, 4), (5, 3))])
def test_a_schedule_never_shrinks(grids: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UsageError, match="must not shrink"):
        ScaleSchedule(grids, (4, 4))


def test_a_step_sees_itself_and_every_coarser_one() -> None:
    schedule = ScaleSchedule(((1, 1), (2, 2), (4, 3)), (4, 3))
    assert [(s.index, s.grid, s.bits, s.sees) for s in schedule.steps(12)] == [
        (0, (1, 1), 12, (0,)),
        (1, (2, 2), 12, (0, 1)),
        (2, (4, 3), 12, (0, 1, 2)),
    ]
