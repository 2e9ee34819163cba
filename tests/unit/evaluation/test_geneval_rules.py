"""GenEval's rules on a table of cases whose outcome was computed by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bitvar.evaluation.benchmarks.geneval_rules import (
    Box,
    DetectedObject,
    Thresholds,
    judge,
    keep_objects,
    overlap,
    relations,
)

LEFT, RIGHT, TOP, LOW = (0, 40, 20, 60), (80, 40, 100, 60), (40, 0, 60, 20), (40, 80, 60, 100)
MIDDLE = (40, 40, 60, 60)


def seen(box: Box = MIDDLE, score: float = 0.95) -> DetectedObject:
    return DetectedObject(box, score)


def colours_by_box(objects: Sequence[DetectedObject], name: str) -> list[str]:
    """The colour that the first edge stands for."""
    return [{0: "red", 40: "green", 80: "blue"}[int(entry.box[0])] for entry in objects]


ONE = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
TWO = {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}
THREE = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 3}],
    "exclude": [{"class": "dog", "count": 4}],
}
RED = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}
PAIR = {
    "tag": "color_attr",
    "include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}],
}


def placed(relation: str, **first: Any) -> dict[str, Any]:
    target = {"class": "cat", "count": 1, **first}
    return {"tag": "position", "include": [target, {"class": "dog", "count": 1, "position": (relation, 0)}]}


CASES = {
    "single object": (ONE, {"dog": [seen()]}, True),
    "single object missing": (ONE, {"cat": [seen()]}, False),
    "more of it are fine": (ONE, {"dog": [seen(), seen(LEFT)]}, True),
    "not above the threshold": (ONE, {"dog": [seen(score=0.3)]}, False),
    "just above the threshold": (ONE, {"dog": [seen(score=0.31)]}, True),
    "two objects": (TWO, {"dog": [seen()], "cat": [seen(LEFT)]}, True),
    "one of two objects": (TWO, {"dog": [seen()]}, False),
    "three": (THREE, {"dog": [seen(), seen(LEFT), seen(TOP)]}, True),
    "two of three": (THREE, {"dog": [seen(), seen(LEFT)]}, False),
    "four of three": (THREE, {"dog": [seen(), seen(LEFT), seen(TOP), seen(LOW)]}, False),
    "counting needs 0.9": (THREE, {"dog": [seen(), seen(LEFT), seen(TOP, 0.9)]}, False),
    "a doubtful fourth": (THREE, {"dog": [seen(), seen(LEFT), seen(TOP), seen(LOW, 0.89)]}, True),
    "red": (RED, {"dog": [seen(LEFT)]}, True),
    "green": (RED, {"dog": [seen()]}, False),
    "the surest one is green": (RED, {"dog": [seen(LEFT, 0.5), seen(score=0.6)]}, False),
    "the surest one is red": (RED, {"dog": [seen(LEFT, 0.6), seen(score=0.5)]}, True),
    "both colours": (PAIR, {"dog": [seen(LEFT)], "cat": [seen(RIGHT)]}, True),
    "colours exchanged": (PAIR, {"dog": [seen(RIGHT)], "cat": [seen(LEFT)]}, False),
    "left of": (placed("left of"), {"dog": [seen(LEFT)], "cat": [seen()]}, True),
    "right instead of left": (placed("left of"), {"dog": [seen(RIGHT)], "cat": [seen()]}, False),
    "right of": (placed("right of"), {"dog": [seen(RIGHT)], "cat": [seen()]}, True),
    "above": (placed("above"), {"dog": [seen(TOP)], "cat": [seen()]}, True),
    "below": (placed("below"), {"dog": [seen(LOW)], "cat": [seen()]}, True),
    "at one place": (placed("below"), {"dog": [seen()], "cat": [seen()]}, False),
    "nothing to be left of": (placed("left of"), {"dog": [seen(LEFT)]}, False),
    "target in another colour": (placed("left of", color="red"), {"dog": [seen(LEFT)], "cat": [seen()]}, False),
    "only the surest are compared": (
        placed("left of"),
        {"dog": [seen(RIGHT, 0.5), seen(LEFT, 0.9)], "cat": [seen(score=0.9), seen(LEFT, 0.4)]},
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_image_is_correct_or_not(name: str) -> None:
    metadata, found, expected = CASES[name]
    correct, reasons = judge(metadata, keep_objects(found, metadata["tag"]), colours_by_box)
    assert correct is expected
    assert bool(reasons) is not expected


def test_a_reason_names_what_is_wrong() -> None:
    _, reasons = judge(PAIR, {"dog": [seen()]}, colours_by_box)
    assert reasons == ["dog is green, not red", "0 of cat, fewer than 1"]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (LEFT, {"left of"}),
        (TOP, {"above"}),
        ((0, 0, 20, 20), {"left of", "above"}),
        ((43, 40, 63, 60), set()),  # 3 pixels, within a tenth of both widths
        ((45, 40, 65, 60), set()),  # 5 pixels, of which 1 remains: a fifth of the distance
        ((50, 40, 70, 60), {"right of"}),  # 10 pixels, of which 6 remain
        ((70, 60, 90, 80), {"right of"}),  # (30, 20) becomes (26, 16), 0.72 and 0.44 of the distance
    ],
    ids=["left", "above", "both", "near", "still near", "right", "mostly right"],
)  # fmt: skip
def test_relations_of_two_boxes(first: Box, expected: set[str]) -> None:
    assert relations(first, MIDDLE) == expected


def test_only_sixteen_of_a_class_are_kept_best_first() -> None:
    found = {"dog": [seen(score=0.4 + i / 100) for i in range(20)]}
    kept = keep_objects(found, "two_object")["dog"]
    assert [entry.score for entry in kept] == [pytest.approx(0.4 + i / 100) for i in range(19, 3, -1)]


def test_overlapping_objects_are_dropped_on_request_only() -> None:
    found = {"dog": [seen(), seen((41, 40, 61, 60), 0.92), seen(LEFT, 0.91)]}
    assert len(keep_objects(found, "counting")["dog"]) == 3
    assert [entry.box for entry in keep_objects(found, "counting", Thresholds(max_overlap=0.5))["dog"]] == [
        MIDDLE,
        LEFT,
    ]


def test_overlap_counts_the_last_pixels() -> None:
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == pytest.approx(2 / 6)
    assert overlap((0, 0, 1, 1), (5, 5, 6, 6)) == 0


def test_masks_take_no_part_in_comparisons() -> None:
    assert DetectedObject(MIDDLE, 0.5, np.ones((2, 2), bool)) == DetectedObject(MIDDLE, 0.5)
