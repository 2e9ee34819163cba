"""The rules of GenEval (arXiv 2310.11513): from detected objects and their colours to correct or not.

They are those of the published `evaluate_images.py`, thresholds included. This file knows no network and no image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Bool

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""Colours in the order of the published list."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""


@dataclass(frozen=True)
class Thresholds:
    """Constants of the rules; the defaults are the published ones.

    Attributes:
        confidence: Score that an object must exceed.
        counting_confidence: The same for prompts of the skill "counting".
        max_objects: Number of objects of a class that are kept, best first.
        max_overlap: Overlap (intersection over union) from which the weaker of two objects of a class is dropped; 1
            keeps all.
        position: Share of the two objects' sizes by which their centres must differ before a direction counts.
    """

    confidence: float = 0.3
    counting_confidence: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position: float = 0.1


PUBLISHED: Final = Thresholds()
_DIRECTION: Final = 0.5  # share of the distance between centres that lies along an axis, for that axis to count
_STILL: Final = 1e-3  # offset in pixels below which there is no direction


@dataclass(frozen=True)
class DetectedObject:
    """An object that a detector found.

    Attributes:
        box: Edges in pixels.
        score: Confidence, 0 to 1.
        mask: Pixels of the object; None if the detector gives boxes alone.
    """

    box: Box
    score: float
    mask: Bool[np.ndarray, "H W"] | None = field(default=None, compare=False, repr=False)


Objects = Mapping[str, Sequence[DetectedObject]]
"""Objects by class, best first."""

NameColours = Callable[[Sequence[DetectedObject], str], Sequence[str]]
"""Names the colour of each object, given the objects and their class."""


def keep_objects(detected: Objects, tag: str, thresholds: Thresholds = PUBLISHED) -> dict[str, list[DetectedObject]]:
    """Keep the objects that count: confident enough, not too many, best first.

    Args:
        detected: All objects by class, in any order.
        tag: Skill of the prompt; "counting" needs more confidence.
        thresholds: Constants of the rules.
    """
    limit = thresholds.counting_confidence if tag == "counting" else thresholds.confidence
    kept: dict[str, list[DetectedObject]] = {}
    for name, objects in detected.items():
        # the published code reverses an ascending sort, which matters for equal scores only
        ordered = [objects[i] for i in np.argsort([entry.score for entry in objects])[::-1]]
        rest = [entry for entry in ordered if entry.score > limit][: thresholds.max_objects]
        chosen: list[DetectedObject] = []
        while rest:
            best, *rest = rest
            chosen.append(best)
            if thresholds.max_overlap < 1:
                rest = [entry for entry in rest if overlap(best.box, entry.box) < thresholds.max_overlap]
        if chosen:
            kept[name] = chosen
    return kept


def overlap(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes whose right and bottom pixels count."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(right - left + 1, 0) * max(bottom - top + 1, 0)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    return shared / union if union else 0.0


def relations(first: Box, second: Box, threshold: float = PUBLISHED.position) -> set[str]:
    """Say where the first box lies relative to the second: a subset of "left of", "right of", "above" and "below".

    The offset of the centres is shortened by `threshold` times the sum of the boxes' sizes along each axis. An axis
    counts if what remains is more than half the distance of the centres.
    """
    a, b = np.asarray(first, dtype=float).reshape(2, 2), np.asarray(second, dtype=float).reshape(2, 2)
    offset = a.mean(axis=0) - b.mean(axis=0)
    sizes = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    remaining = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if np.abs(remaining).max() < _STILL:
        return set()
    x, y = remaining / np.linalg.norm(offset)
    names = {"left of": x < -_DIRECTION, "right of": x > _DIRECTION, "above": y < -_DIRECTION, "below": y > _DIRECTION}
    return {name for name, holds in names.items() if holds}


def judge(
    metadata: Mapping[str, Any], objects: Objects, name_colours: NameColours, thresholds: Thresholds = PUBLISHED
) -> tuple[bool, list[str]]:
    """Decide whether an image shows what its prompt asks for, and say what is wrong.

    All requirements of `include` must hold and none of `exclude`. Colour and position are judged on the most confident
    objects, as many as the requirement asks for.

    Args:
        metadata: A line of `evaluation_metadata.jsonl`.
        objects: Objects that `keep_objects` kept.
        name_colours: Function that names colours.
        thresholds: Constants of the rules.
    """
    reasons: list[str] = []
    groups: list[Sequence[DetectedObject] | None] = []
    for wanted in metadata.get("include", []):
        group, why = _included(wanted, objects, groups, name_colours, thresholds)
        groups.append(group)
        reasons += why
    for unwanted in metadata.get("exclude", []):
        count = len(objects.get(unwanted["class"], []))
        if count >= unwanted["count"]:
            reasons.append(f"{count} of {unwanted['class']}, more than {unwanted['count'] - 1}")
    return not reasons, reasons


def _included(
    wanted: Mapping[str, Any],
    objects: Objects,
    groups: Sequence[Sequence[DetectedObject] | None],
    name_colours: NameColours,
    thresholds: Thresholds,
) -> tuple[Sequence[DetectedObject] | None, list[str]]:
    """Check one requirement. Returns the objects that meet it, or None and what is wrong."""
    name, count = wanted["class"], wanted["count"]
    group = list(objects.get(name, []))[:count]
    if len(group) < count:
        return None, [f"{len(group)} of {name}, fewer than {count}"]
    reasons = []
    if "color" in wanted:
        colours = list(name_colours(group, name))
        if colours.count(wanted["color"]) < count:
            reasons.append(f"{name} is {' and '.join(colours)}, not {wanted['color']}")
    if "position" in wanted and not reasons:
        relation, target_index = wanted["position"]
        reasons += _misplaced(name, group, relation, groups[target_index], thresholds)
    return (None if reasons else group), reasons


def _misplaced(
    name: str,
    group: Sequence[DetectedObject],
    relation: str,
    targets: Sequence[DetectedObject] | None,
    thresholds: Thresholds,
) -> list[str]:
    if targets is None:
        return [f"nothing for {name} to be {relation}"]
    for entry in group:
        for target in targets:
            seen = relations(entry.box, target.box, thresholds.position)
            if relation not in seen:
                return [f"{name} is {' and '.join(sorted(seen)) or 'in no direction'} of it, not {relation}"]
    return []
