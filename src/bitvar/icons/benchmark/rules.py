"""Rules that decide from detections whether an image shows its prompt's scene, after GenEval (arXiv 2310.11513)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bitvar.errors import UsageError
from bitvar.icons.benchmark.detections import OWN_COLOUR, Detection, Detections
from bitvar.icons.dataset.concepts import CONCEPTS, NUMBER_WORDS, with_article
from bitvar.icons.dataset.prompts import SKILLS
from bitvar.icons.dataset.scene_spec import RELATION_PHRASES, ObjectSpec, SceneSpec

_PLURALS = {concept.name: concept.plural for concept in CONCEPTS}


@dataclass(frozen=True)
class Judgement:
    """Whether an image is `correct`, that is, shows all of its scene; if not, `reasons` say in words why."""

    correct: bool
    reasons: tuple[str, ...]


def judge_scene(detections: Detections, spec: SceneSpec, skill: str) -> Judgement:
    """Judge detections by the scene that their image should show.

    "single" asks for exactly one object, "count" for exactly `spec.count` objects of the concept; "colour" and
    "colour_pair" for the named colours, "position" for the relation, "style" for the drawing style of `spec.artist`;
    each of them for all named objects. Whatever the skill, the background must match unless the scene's is white,
    which captions leave out.

    Raises:
        UsageError: for an unknown skill.
    """
    if skill not in SKILLS:
        why = f"expected one of {', '.join(SKILLS)}"
        raise UsageError(f"Can't judge the skill {skill!r}.", why, "choose a known one")
    if spec.count > 1:
        reasons = _wrong_count(detections, spec.objects[0], spec.count)
    else:
        reasons = _wrong_objects(detections, spec)
        if skill == "single" and not reasons and len(detections.objects) != 1:
            reasons.append(f"saw {len(detections.objects)} objects")
    if spec.background != "white":
        reasons += _wrong_background(detections, spec.background)
    if skill == "style":
        reasons += _wrong_style(detections, spec.artist)
    return Judgement(not reasons, tuple(reasons))


def _wrong_count(detections: Detections, item: ObjectSpec, count: int) -> list[str]:
    seen = sum(is_shown(detection, item, detections) for detection in detections.objects)
    if seen == count:
        return []
    if seen == 0:
        return [_missing(detections, item)]
    return [f"saw {_numbered(seen, item.concept)}"]


def _wrong_objects(detections: Detections, spec: SceneSpec) -> list[str]:
    """List errors in objects that are named one by one: missing, in another colour, or not in the relation."""
    settings = list(itertools.permutations(detections.objects, len(spec.objects)))
    shown = [
        setting
        for setting in settings
        if all(is_shown(detection, item, detections) for detection, item in zip(setting, spec.objects, strict=True))
    ]
    if not shown:
        missing = [item for item in spec.objects if not any(is_shown(s, item, detections) for s in detections.objects)]
        if not missing:  # one object serves for both
            return [f"saw no {spec.objects[-1].concept} besides"]
        return [_missing(detections, item) for item in missing]
    if spec.relation is None or any(_stand(setting, spec.relation) for setting in shown):
        return []
    first, second = spec.objects
    return [f"the {first.concept} is not {RELATION_PHRASES[spec.relation]} the {second.concept}"]


def is_shown(detection: Detection, item: ObjectSpec, detections: Detections) -> bool:
    """Tell whether one of the detections shows an object, in its colour if it has one."""
    limits = detections.thresholds
    if detection.concepts.get(item.concept, 0.0) < limits.concept:
        return False
    return item.colour is None or detection.painted(item.colour) >= limits.colour


def _missing(detections: Detections, item: ObjectSpec) -> str:
    """Explain why no detection is the object: its colour, or the objects seen instead."""
    alike = [s for s in detections.objects if s.concepts.get(item.concept, 0.0) >= detections.thresholds.concept]
    if alike and item.colour is not None:
        named = {colour: alike[0].painted(colour) for colour in alike[0].colours}
        likeliest = max(named, key=lambda colour: named[colour])
        return f"the {item.concept} {'has its own colours' if likeliest == OWN_COLOUR else f'is {likeliest}'}"
    if not detections.objects:
        return f"saw no {item.concept}: saw nothing"
    seen = " and ".join(with_article(detection.concept) for detection in detections.objects[:3])
    return f"saw no {item.concept}: saw {seen}"


def _stand(setting: Sequence[Detection], relation: str) -> bool:
    """Tell whether the first object lies mostly in the direction of the relation, seen from the second."""
    (x, y), (other_x, other_y) = setting[0].centre, setting[1].centre
    across, down = x - other_x, y - other_y
    if relation in ("left", "right"):
        return abs(across) >= abs(down) and (across < 0) == (relation == "left")
    return abs(down) >= abs(across) and (down < 0) == (relation == "above")


def _wrong_background(detections: Detections, background: str) -> list[str]:
    if detections.background.get(background, 0.0) >= detections.thresholds.background:
        return []
    if max(detections.background.values(), default=0.0) < detections.thresholds.background:
        return ["the background has no one colour"]
    return [f"the background is {max(detections.background, key=lambda name: detections.background[name])}"]


def _wrong_style(detections: Detections, artist: str) -> list[str]:
    if not detections.style:
        return ["saw no object to tell the style by"]
    likeliest = max(detections.style, key=lambda name: detections.style[name])
    return [] if likeliest == artist else [f"the style is {likeliest}"]


def _numbered(number: int, concept: str) -> str:
    if number == 1:
        return with_article(concept)
    return f"{NUMBER_WORDS.get(number, str(number))} {_PLURALS.get(concept, concept)}"
