"""Whether an image shows what was asked for, by GenEval's rules (arXiv 2310.11513). Knows sights, not networks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bitvar.errors import UsageError
from bitvar.icons.benchmark.detections import OWN_COLOUR, Sight, Sighting
from bitvar.icons.dataset.concepts import CONCEPTS, NUMBER_WORDS, with_article
from bitvar.icons.dataset.prompts import SKILLS
from bitvar.icons.dataset.scene_spec import RELATION_PHRASES, SceneRequest, Thing

_PLURALS = {concept.name: concept.plural for concept in CONCEPTS}


@dataclass(frozen=True)
class Verdict:
    """`right` if the image shows all that was asked for; else `reasons` says in words what is wrong."""

    right: bool
    reasons: tuple[str, ...]


def give_verdict(sight: Sight, request: SceneRequest, skill: str) -> Verdict:
    """Judge a sight by what its image should show.

    "single" asks for exactly one object, "count" for exactly `request.count` objects of the concept; "colour" and
    "colour_pair" for the colours named, "position" for the relation, "style" for the drawing style of
    `request.artist`; each for all objects named. A background is asked for, whatever the skill, unless it is white,
    which captions leave out.

    Raises:
        UsageError: for an unknown skill.
    """
    if skill not in SKILLS:
        why = f"expected one of {', '.join(SKILLS)}"
        raise UsageError(f"Can't judge the skill {skill!r}.", why, "choose a known one")
    if request.count > 1:
        reasons = _wrong_count(sight, request.things[0], request.count)
    else:
        reasons = _wrong_things(sight, request)
        if skill == "single" and not reasons and len(sight.objects) != 1:
            reasons.append(f"saw {len(sight.objects)} objects")
    if request.background != "white":
        reasons += _wrong_background(sight, request.background)
    if skill == "style":
        reasons += _wrong_style(sight, request.artist)
    return Verdict(not reasons, tuple(reasons))


def _wrong_count(sight: Sight, thing: Thing, count: int) -> list[str]:
    seen = sum(_is_shown(sighting, thing, sight) for sighting in sight.objects)
    if seen == count:
        return []
    if seen == 0:
        return [_missing(sight, thing)]
    return [f"saw {_numbered(seen, thing.concept)}"]


def _wrong_things(sight: Sight, request: SceneRequest) -> list[str]:
    """What is wrong with objects named one by one: missing, another colour, or not in the relation asked for."""
    settings = list(itertools.permutations(sight.objects, len(request.things)))
    shown = [
        setting
        for setting in settings
        if all(_is_shown(sighting, thing, sight) for sighting, thing in zip(setting, request.things, strict=True))
    ]
    if not shown:
        missing = [thing for thing in request.things if not any(_is_shown(s, thing, sight) for s in sight.objects)]
        if not missing:  # one object serves for both
            return [f"saw no {request.things[-1].concept} besides"]
        return [_missing(sight, thing) for thing in missing]
    if request.relation is None or any(_stand(setting, request.relation) for setting in shown):
        return []
    first, second = request.things
    return [f"the {first.concept} is not {RELATION_PHRASES[request.relation]} the {second.concept}"]


def _is_shown(sighting: Sighting, thing: Thing, sight: Sight) -> bool:
    limits = sight.thresholds
    if sighting.concepts.get(thing.concept, 0.0) < limits.concept:
        return False
    return thing.colour is None or sighting.painted(thing.colour) >= limits.colour


def _missing(sight: Sight, thing: Thing) -> str:
    """Why no object is the thing: its colour, or what was seen instead."""
    alike = [s for s in sight.objects if s.concepts.get(thing.concept, 0.0) >= sight.thresholds.concept]
    if alike and thing.colour is not None:
        named = {colour: alike[0].painted(colour) for colour in alike[0].colours}
        likeliest = max(named, key=lambda colour: named[colour])
        return f"the {thing.concept} {'has its own colours' if likeliest == OWN_COLOUR else f'is {likeliest}'}"
    if not sight.objects:
        return f"saw no {thing.concept}: saw nothing"
    seen = " and ".join(with_article(sighting.concept) for sighting in sight.objects[:3])
    return f"saw no {thing.concept}: saw {seen}"


def _stand(setting: Sequence[Sighting], relation: str) -> bool:
    """Whether the first object is where the relation says, as seen from the second: mostly in that direction."""
    (x, y), (other_x, other_y) = setting[0].centre, setting[1].centre
    across, down = x - other_x, y - other_y
    if relation in ("left", "right"):
        return abs(across) >= abs(down) and (across < 0) == (relation == "left")
    return abs(down) >= abs(across) and (down < 0) == (relation == "above")


def _wrong_background(sight: Sight, background: str) -> list[str]:
    if sight.background.get(background, 0.0) >= sight.thresholds.background:
        return []
    if max(sight.background.values(), default=0.0) < sight.thresholds.background:
        return ["the background has no one colour"]
    return [f"the background is {max(sight.background, key=lambda name: sight.background[name])}"]


def _wrong_style(sight: Sight, artist: str) -> list[str]:
    if not sight.style:
        return ["saw no object to tell the style by"]
    likeliest = max(sight.style, key=lambda name: sight.style[name])
    return [] if likeliest == artist else [f"the style is {likeliest}"]


def _numbered(number: int, concept: str) -> str:
    if number == 1:
        return with_article(concept)
    return f"{NUMBER_WORDS.get(number, str(number))} {_PLURALS.get(concept, concept)}"
