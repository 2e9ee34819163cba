"""Verdicts on hand-made sights."""

from collections.abc import Mapping

import pytest

from bitvar.errors import UsageError
from bitvar.icons.benchmark.detections import Sight, Sighting, Thresholds
from bitvar.icons.benchmark.rules import give_verdict
from bitvar.icons.dataset.scene_spec import SceneRequest, Thing

MIDDLE = (0.3, 0.3, 0.7, 0.7)
LEFT, RIGHT = (0.05, 0.3, 0.45, 0.7), (0.55, 0.35, 0.95, 0.75)
ABOVE, BELOW = (0.3, 0.05, 0.7, 0.45), (0.35, 0.55, 0.75, 0.95)
BOXES = {"left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}


def seen(
    concept: str, colour: str = "own", box: tuple[float, float, float, float] = MIDDLE, sure: float = 0.9
) -> Sighting:
    colours = {"red": 0.02, "blue": 0.03, "own": 0.05}
    colours[colour] += 0.9
    return Sighting(box, 0.9, {concept: sure, "tree": 0.05}, colours)


def sight(*objects: Sighting, background: str = "white", style: Mapping[str, float] | None = None) -> Sight:
    return Sight(objects, {background: 0.97}, {"noto": 0.8, "twemoji": 0.2} if style is None else style)


def single(concept: str, colour: str | None = None, background: str = "white") -> SceneRequest:
    return SceneRequest("single", "noto", (Thing(concept, colour),), background=background)


def pair(first: Thing, second: Thing, relation: str | None = None) -> SceneRequest:
    return SceneRequest("position" if relation else "two", "noto", (first, second), relation=relation)


def test_one_object_is_one_object() -> None:
    assert give_verdict(sight(seen("cat")), single("cat"), "single").right
    assert give_verdict(sight(seen("dog")), single("cat"), "single").reasons == ("saw no cat: saw a dog",)
    assert give_verdict(sight(), single("cat"), "single").reasons == ("saw no cat: saw nothing",)
    two = sight(seen("cat", box=LEFT), seen("dog", box=RIGHT))
    assert give_verdict(two, single("cat"), "single").reasons == ("saw 2 objects",)


def test_an_unlikely_concept_does_not_count() -> None:
    assert not give_verdict(sight(seen("cat", sure=0.1)), single("cat"), "single").right
    loose = Sight((seen("cat", sure=0.1),), {"white": 1.0}, thresholds=Thresholds(concept=0.05))
    assert give_verdict(loose, single("cat"), "single").right


def test_the_background_counts_where_it_is_named() -> None:
    assert give_verdict(sight(seen("cat"), background="red"), single("cat", background="red"), "single").right
    wrong = give_verdict(sight(seen("cat")), single("cat", background="red"), "single")
    assert wrong.reasons == ("the background is white",)
    assert give_verdict(sight(seen("cat"), background="red"), single("cat"), "style").right
    assert give_verdict(sight(seen("cat"), background="red"), single("cat"), "single").right
    mixed = Sight((seen("cat"),), {"white": 0.3, "red": 0.3})
    wrong = give_verdict(mixed, single("cat", background="red"), "single")
    assert wrong.reasons == ("the background has no one colour",)
    most = Sight((seen("cat"),), {"red": 0.6}, thresholds=Thresholds(background=0.7))
    assert not give_verdict(most, single("cat", background="red"), "single").right


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_a_count_is_exact(number: int) -> None:
    request = SceneRequest("count", "noto", (Thing("mouse"),), count=3)
    verdict = give_verdict(sight(*[seen("mouse")] * number), request, "count")
    assert verdict.right == (number == 3)
    said = {0: ("saw no mouse: saw nothing",), 1: ("saw a mouse",), 2: ("saw two mice",), 3: (), 4: ("saw four mice",)}
    assert verdict.reasons == said[number]


def test_others_do_not_add_to_a_count() -> None:
    request = SceneRequest("count", "noto", (Thing("cat"),), count=2)
    assert give_verdict(sight(seen("cat"), seen("cat"), seen("dog")), request, "count").right
    assert not give_verdict(sight(seen("cat"), seen("dog")), request, "count").right


def test_a_colour_is_among_the_named_ones() -> None:
    assert give_verdict(sight(seen("car", "red")), single("car", "red"), "colour").right
    wrong = give_verdict(sight(seen("car", "blue")), single("car", "red"), "colour")
    assert wrong.reasons == ("the car is blue",)
    own = Sighting(MIDDLE, 0.9, {"car": 0.9}, {"own": 0.9, "red": 0.08, "blue": 0.02})
    assert give_verdict(sight(own), single("car", "red"), "colour").right
    strict = Sight((own,), {"white": 1.0}, thresholds=Thresholds(colour=0.9))
    assert not give_verdict(strict, single("car", "red"), "colour").right


def test_colours_belong_to_their_objects() -> None:
    request = pair(Thing("car", "red"), Thing("book", "blue"))
    assert give_verdict(sight(seen("car", "red"), seen("book", "blue")), request, "colour_pair").right
    swapped = give_verdict(sight(seen("car", "blue"), seen("book", "red")), request, "colour_pair")
    assert swapped.reasons == ("the car is blue", "the book is red")


def test_two_things_need_two_objects() -> None:
    request = pair(Thing("cat"), Thing("dog"))
    assert give_verdict(sight(seen("dog"), seen("cat")), request, "two").right
    both = Sighting(MIDDLE, 0.9, {"cat": 0.5, "dog": 0.5}, {"own": 1.0})
    assert give_verdict(sight(both), request, "two").reasons == ("saw no dog besides",)


@pytest.mark.parametrize("relation", list(BOXES))
@pytest.mark.parametrize("place", list(BOXES))
def test_a_relation_is_as_seen_from_the_second(relation: str, place: str) -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}[place]
    shown = sight(seen("dog", box=BOXES[opposite]), seen("cat", box=BOXES[place]))
    verdict = give_verdict(shown, pair(Thing("cat"), Thing("dog"), relation), "position")
    assert verdict.right == (relation == place)
    if not verdict.right:
        assert verdict.reasons[0].startswith("the cat is not ")


def test_a_style_is_the_artists() -> None:
    assert give_verdict(sight(seen("cat")), single("cat"), "style").right
    other = sight(seen("cat"), style={"noto": 0.2, "twemoji": 0.8})
    assert give_verdict(other, single("cat"), "style").reasons == ("the style is twemoji",)
    assert give_verdict(other, single("cat"), "single").right
    none = give_verdict(sight(seen("cat"), style={}), single("cat"), "style")
    assert none.reasons == ("saw no object to tell the style by",)
    unsure = sight(seen("cat"), style={"noto": 0.3, "twemoji": 0.25, "fluent-3d": 0.25, "fluent-flat": 0.2})
    assert give_verdict(unsure, single("cat"), "style").right


def test_an_unknown_skill_is_refused() -> None:
    with pytest.raises(UsageError, match="juggling"):
        give_verdict(sight(), single("cat"), "juggling")
