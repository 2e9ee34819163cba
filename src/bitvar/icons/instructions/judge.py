"""Judging edited scenes: whether the instruction was followed, and whether everything else is as it was."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from bitvar.icons.benchmark.detections import Detection, Detections
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.scene_spec import SceneSpec
from bitvar.icons.instructions.spec import Cell, Placed, SceneEdit

_AXIS: Final[dict[Cell, tuple[int, bool]]] = {
    "left": (0, True),
    "right": (0, False),
    "above": (1, True),
    "below": (1, False),
}
"""Axis of the centre, and whether the cell is the half with the smaller coordinates."""


@dataclass(frozen=True)
class EditJudgement:
    """Judgement of an edited image.

    Attributes:
        followed: Whether it shows what the instruction asks for.
        kept: Whether it shows all other objects in their places, on the right background, and no further ones.
        reasons: Errors in words.
    """

    followed: bool
    kept: bool
    reasons: tuple[str, ...]


def judge_edit(detections: Detections, edit: SceneEdit) -> EditJudgement:
    """Judge detections on an edited image by its instruction.

    A recoloured or new object must be found in its cell, with its colour if it has one. A removed or replaced object
    must be gone: it is the likeliest concept of no object. A new background must cover half of what no object covers.
    """
    wrong, changed = list(_not_followed(detections, edit)), list(_not_kept(detections, edit))
    return EditJudgement(not wrong, not changed, (*wrong, *changed))


def _not_followed(detections: Detections, edit: SceneEdit) -> list[str]:
    if edit.index is None:
        return _wrong_background(detections, edit)
    reasons: list[str] = []
    if edit.kind in ("remove", "replace"):
        old = edit.source.objects[edit.index].item.concept
        if any(detection.concept == old for detection in detections.objects):
            reasons.append(f"the {old} is still there")
    if edit.kind != "remove":
        reasons += _not_shown(detections, edit.target.objects[edit.index], edit)
    return reasons


def _not_kept(detections: Detections, edit: SceneEdit) -> list[str]:
    reasons = list(chain.from_iterable(_not_shown(detections, placed, edit) for placed in edit.kept))
    if edit.kind != "background":
        reasons += _wrong_background(detections, edit)
    if len(detections.objects) > len(edit.target.objects):
        reasons.append(f"saw {len(detections.objects)} objects")
    return reasons


def _not_shown(detections: Detections, placed: Placed, edit: SceneEdit) -> list[str]:
    """Explain why an object isn't found in its cell; empty if it is."""
    item = placed.item
    here = replace(detections, objects=tuple(each for each in detections.objects if _is_in(each, placed.cell)))
    skill = "two" if item.colour is None else "colour"
    return list(judge_scene(here, SceneSpec(skill, edit.source.artist, (item,)), skill).reasons)


def _wrong_background(detections: Detections, edit: SceneEdit) -> list[str]:
    shares, wanted = detections.background, edit.target.background
    if shares.get(wanted, 0.0) >= detections.thresholds.background:
        return []
    return [f"the background is not {wanted}"]


def _is_in(detection: Detection, cell: Cell) -> bool:
    if cell == "whole":
        return True
    axis, smaller = _AXIS[cell]
    return (detection.centre[axis] < 0.5) == smaller


def shares(judgements: Sequence[EditJudgement]) -> dict[str, float]:
    """Compute the shares of images that follow, that keep the rest, and that do both."""
    count = max(1, len(judgements))
    return {
        "followed": sum(each.followed for each in judgements) / count,
        "kept": sum(each.kept for each in judgements) / count,
        "both": sum(each.followed and each.kept for each in judgements) / count,
    }
