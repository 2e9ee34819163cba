"""What the stickers benchmark decides on hand-made detections, atom by atom."""

from dataclasses import replace

import numpy as np
import pytest

from bitvar.icons.stickers.benchmark.calibration import falsified
from bitvar.icons.stickers.benchmark.equivalents import EQUIVALENTS, equivalents_of
from bitvar.icons.stickers.benchmark.prompts import read_prompts
from bitvar.icons.stickers.benchmark.rules import ATOMS, Detection, Detections, Judgement, Thresholds, judge_image
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.spec import Composition, Item

Box = tuple[float, float, float, float]
LEFT, RIGHT = (0.05, 0.3, 0.45, 0.7), (0.55, 0.35, 0.95, 0.75)
ABOVE, BELOW = (0.3, 0.05, 0.7, 0.45), (0.35, 0.55, 0.75, 0.95)
SMALL = (0.6, 0.4, 0.8, 0.6)


def seen(
    concept: str, box: tuple[float, float, float, float] = LEFT, colour: str = "red", sure: float = 0.9
) -> Detection:
    return Detection(box, 0.9, {concept: sure, "tree": 0.05}, {"red": 0.04, "blue": 0.04, colour: 0.9})


def judge(
    composition: Composition, *objects: Detection, skill: str = "position", background: str = "white"
) -> Judgement:
    return judge_image(Detections(objects, {background: 0.9}), composition, skill)


def pair(layout: str, one: Item, other: Item) -> Composition:
    return Composition(layout, (one, other))


def held(judgement: Judgement) -> list[tuple[str, bool]]:
    return [(atom.kind, atom.holds) for atom in judgement.atoms]


def test_one_object_is_alone() -> None:
    cat = Composition("single", (Item("cat"),))
    assert judge(cat, seen("cat"), skill="single").correct
    assert held(judge(cat, seen("cat"), seen("dog", RIGHT), skill="synonym")) == [("object", True), ("alone", False)]
    assert judge(cat, seen("cat"), seen("dog", RIGHT), skill="colour").correct
    assert judge(cat, skill="single").reasons == ("no cat", "not only one object")


def test_the_background_is_an_atom_where_it_is_named() -> None:
    cat = Composition("single", (Item("cat"),), background="red")
    assert judge(cat, seen("cat"), skill="single", background="red").correct
    assert judge(cat, seen("cat"), skill="single").reasons == ("not a red background",)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_count_is_exact(number: int) -> None:
    judgement = judge(Composition("count", (Item("cat"),), 6), *[seen("cat")] * number, seen("dog"), skill="count")
    assert held(judgement) == [("object", True), ("count", number == 6)]


def test_a_relation_holds_in_its_direction_only() -> None:
    composition = pair("left", Item("cat"), Item("dog"))
    assert judge(composition, seen("dog", RIGHT), seen("cat", LEFT)).correct
    wrong = judge(composition, seen("dog", LEFT), seen("cat", RIGHT))
    assert wrong.reasons == ("not cat left of dog",)
    assert not judge(composition, seen("cat", ABOVE), seen("dog", BELOW)).correct
    assert judge(pair("above", Item("cat"), Item("dog")), seen("cat", ABOVE), seen("dog", BELOW)).correct
    assert judge(pair("beside", Item("cat"), Item("dog")), seen("dog", ABOVE), seen("cat", BELOW)).correct
    missing = judge(composition, seen("cat"))
    assert held(missing) == [("object", True), ("object", False), ("relation", False)]


def test_one_object_does_not_serve_for_two() -> None:
    both = Detection(LEFT, 0.9, {"cat": 0.5, "dog": 0.5}, {})
    assert sum(holds for _, holds in held(judge(pair("beside", Item("cat"), Item("dog")), both))) == 1


def test_the_best_match_counts() -> None:
    unsure = Detection(RIGHT, 0.9, {"cat": 0.4, "dog": 0.5}, {})
    assert judge(pair("left", Item("cat"), Item("dog")), seen("cat", LEFT), unsure).correct
    assert judge(pair("left", Item("dog"), Item("cat")), seen("dog", LEFT), unsure).correct


def test_a_row_has_an_atom_for_each_two_neighbours() -> None:
    row = Composition("row", (Item("cat"), Item("dog"), Item("cow")))
    boxes = [(left, 0.4, left + 0.2, 0.6) for left in (0.1, 0.4, 0.7)]
    named = [seen(name, box) for name, box in zip(("cat", "cow", "dog"), boxes, strict=True)]
    judgement = judge(row, *named, skill="three")
    assert held(judgement) == [*[("object", True)] * 3, ("relation", True), ("relation", False)]
    assert judge(replace(row, layout="group"), *named, skill="three").correct


def test_sizes_differ_enough() -> None:
    composition = pair("beside", Item("cat", size="small"), Item("dog", size="big"))
    assert judge(composition, seen("cat", SMALL), seen("dog", LEFT), skill="size").correct
    assert judge(composition, seen("cat", RIGHT), seen("dog", LEFT), skill="size").reasons == (
        "not cat smaller than dog",
    )
    assert not judge(composition, seen("cat", LEFT), seen("dog", SMALL), skill="size").correct


def test_colours_belong_to_their_objects() -> None:
    composition = pair("beside", Item("cat", "red"), Item("dog", "blue"))
    assert judge(composition, seen("cat", LEFT, "red"), seen("dog", RIGHT, "blue"), skill="colour_pair").correct
    wrong = judge(composition, seen("cat", LEFT, "blue"), seen("dog", RIGHT, "red"), skill="colour_pair")
    assert wrong.reasons == ("not red cat", "not blue dog")


def test_a_noun_is_named_by_the_largest_object() -> None:
    noun = Composition("single", (Item("cow"),))
    assert judge(noun, seen("dog", SMALL), seen("ox"), skill="noun").reasons == ("not cow (saw ox)",)
    assert judge(noun, seen("dog", SMALL), seen("standing cow"), skill="noun").correct
    assert judge(noun, skill="noun").reasons == ("not cow (saw nothing)",)


def test_equivalents_add_up_and_thresholds_apply() -> None:
    cow = Detection(LEFT, 0.9, {"cow": 0.06, "standing cow": 0.06}, {})
    composition = Composition("single", (Item("cow"),))
    assert judge_image(Detections((cow,)), composition, "single").correct
    strict = Detections((cow,), thresholds=Thresholds(concept=0.2))
    assert not judge_image(strict, composition, "single").correct


def test_equivalents_are_concepts_in_one_group_each() -> None:
    names = {concept.name for concept in read_concepts()}
    assert EQUIVALENTS.keys() <= names
    assert all(equivalents_of(other) == group for group in EQUIVALENTS.values() for other in group)
    assert equivalents_of("violin") == {"violin"}


def test_a_false_composition_differs() -> None:
    rng = np.random.default_rng(0)
    for prompt in read_prompts():
        false = falsified(prompt.composition, prompt.skill, rng)
        assert false != prompt.composition and false.layout == prompt.composition.layout, prompt.id


def test_every_kind_of_atom_is_asked_for() -> None:
    atoms = [
        atom
        for prompt in read_prompts()
        for atom in judge_image(Detections(()), prompt.composition, prompt.skill).atoms
    ]
    assert {atom.kind for atom in atoms} == set(ATOMS)
    assert not any(atom.holds for atom in atoms)
