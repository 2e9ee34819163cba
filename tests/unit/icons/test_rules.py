"""Verdicts on hand-made sights."""

from collections.abc import Mapping

import pytest

from bitvar.errors import UsageError
from bitvar.icons.benchmark.detections import Detection, Detections, Thresholds
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec

MIDDLE = (0.3, 0.3, 0.7, 0.7)
LEFT, RIGHT = (0.05, 0.3, 0.45, 0.7), (0.55, 0.35, 0.95, 0.75)
ABOVE, BELOW = (0.3, 0.05, 0.7, 0.45), (0.35, 0.55, 0.75, 0.95)
BOXES = {"left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}


def seen(
    concept: str, colour: str = "own", box: tuple[float, float, float, float] = MIDDLE, sure: float = 0.9
) -> Detection:
    colours = {"red": 0.02, "blue": 0.03, "own": 0.05}
    colours[colour] += 0.9
    return Detection(box, 0.9, {concept: sure, "tree": 0.05}, colours)


def detections(*objects: Detection, background: str = "white", style: Mapping[str, float] | None = None) -> Detections:
    return Detections(objects, {background: 0.97}, {"noto": 0.8, "twemoji": 0.2} if style is None else style)


def single(concept: str, colour: str | None = None, background: str = "white") -> SceneSpec:
    return SceneSpec("single", "noto", (ObjectSpec(concept, colour),), background=background)


def pair(first: ObjectSpec, second: ObjectSpec, relation: str | None = None) -> SceneSpec:
    return SceneSpec("position" if relation else "two", "noto", (first, second), relation=relation)


def test_one_object_is_one_object() -> None:
    assert judge_scene(detections(seen("cat")), single("cat"), "single").correct
    assert judge_scene(detections(seen("dog")), single("cat"), "single").reasons == ("saw no cat: saw a dog",)
    assert judge_scene(detections(), single("cat"), "single").reasons == ("saw no cat: saw nothing",)
    two = detections(seen("cat", box=LEFT), seen("dog", box=RIGHT))
    assert judge_scene(two, single("cat"), "single").reasons == ("saw 2 objects",)


def test_an_unlikely_concept_does_not_count() -> None:
    assert not judge_scene(detections(seen("cat", sure=0.1)), single("cat"), "single").correct
    loose = Detections((seen("cat", sure=0.1),), {"white": 1.0}, thresholds=Thresholds(concept=0.05))
    assert judge_scene(loose, single("cat"), "single").correct


def test_the_background_counts_where_it_is_named() -> None:
    assert judge_scene(detections(seen("cat"), background="red"), single("cat", background="red"), "single").correct
    wrong = judge_scene(detections(seen("cat")), single("cat", background="red"), "single")
    assert wrong.reasons == ("the background is white",)
    assert judge_scene(detections(seen("cat"), background="red"), single("cat"), "style").correct
    assert judge_scene(detections(seen("cat"), background="red"), single("cat"), "single").correct
    mixed = Detections((seen("cat"),), {"white": 0.3, "red": 0.3})
    wrong = judge_scene(mixed, single("cat", background="red"), "single")
    assert wrong.reasons == ("the background has no one colour",)
    most = Detections((seen("cat"),), {"red": 0.6}, thresholds=Thresholds(background=0.7))
    assert not judge_scene(most, single("cat", background="red"), "single").correct


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_a_count_is_exact(number: int) -> None:
    spec = SceneSpec("count", "noto", (ObjectSpec("mouse"),), count=3)
    judgement = judge_scene(detections(*[seen("mouse")] * number), spec, "count")
    assert judgement.correct == (number == 3)
    said = {0: ("saw no mouse: saw nothing",), 1: ("saw a mouse",), 2: ("saw two mice",), 3: (), 4: ("saw four mice",)}
    assert judgement.reasons == said[number]


def test_others_do_not_add_to_a_count() -> None:
    spec = SceneSpec("count", "noto", (ObjectSpec("cat"),), count=2)
    assert judge_scene(detections(seen("cat"), seen("cat"), seen("dog")), spec, "count").correct
    assert not judge_scene(detections(seen("cat"), seen("dog")), spec, "count").correct


def test_a_colour_is_among_the_named_ones() -> None:
    assert judge_scene(detections(seen("car", "red")), single("car", "red"), "colour").correct
    wrong = judge_scene(detections(seen("car", "blue")), single("car", "red"), "colour")
    assert wrong.reasons == ("the car is blue",)
    own = Detection(MIDDLE, 0.9, {"car": 0.9}, {"own": 0.9, "red": 0.08, "blue": 0.02})
    assert judge_scene(detections(own), single("car", "red"), "colour").correct
    strict = Detections((own,), {"white": 1.0}, thresholds=Thresholds(colour=0.9))
    assert not judge_scene(strict, single("car", "red"), "colour").correct


def test_colours_belong_to_their_objects() -> None:
    spec = pair(ObjectSpec("car", "red"), ObjectSpec("book", "blue"))
    assert judge_scene(detections(seen("car", "red"), seen("book", "blue")), spec, "colour_pair").correct
    swapped = judge_scene(detections(seen("car", "blue"), seen("book", "red")), spec, "colour_pair")
    assert swapped.reasons == ("the car is blue", "the book is red")


def test_two_things_need_two_objects() -> None:
    spec = pair(ObjectSpec("cat"), ObjectSpec("dog"))
    assert judge_scene(detections(seen("dog"), seen("cat")), spec, "two").correct
    both = Detection(MIDDLE, 0.9, {"cat": 0.5, "dog": 0.5}, {"own": 1.0})
    assert judge_scene(detections(both), spec, "two").reasons == ("saw no dog besides",)


@pytest.mark.parametrize("relation", list(BOXES))
@pytest.mark.parametrize("place", list(BOXES))
def test_a_relation_is_as_seen_from_the_second(relation: str, place: str) -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[place]
    shown = detections(seen("dog", box=BOXES[opposite]), seen("cat", box=BOXES[place]))
    judgement = judge_scene(shown, pair(ObjectSpec("cat"), ObjectSpec("dog"), relation), "position")
    assert judgement.correct == (relation == place)
    if not judgement.correct:
        assert judgement.reasons[0].startswith("the cat is not ")


def test_a_style_is_the_artists() -> None:
    assert judge_scene(detections(seen("cat")), single("cat"), "style").correct
    other = detections(seen("cat"), style={"noto": 0.2, "twemoji": 0.8})
    assert judge_scene(other, single("cat"), "style").reasons == ("the style is twemoji",)
    assert judge_scene(other, single("cat"), "single").correct
    none = judge_scene(detections(seen("cat"), style={}), single("cat"), "style")
    assert none.reasons == ("saw no object to tell the style by",)
    unsure = detections(seen("cat"), style={"noto": 0.3, "twemoji": 0.25, "fluent-3d": 0.25, "fluent-flat": 0.2})
    assert judge_scene(unsure, single("cat"), "style").correct


def test_an_unknown_skill_is_refused() -> None:
    with pytest.raises(UsageError, match="juggling"):
        judge_scene(detections(), single("cat"), "juggling")
