"""Measurement of edits: whether the change is there, whether the rest is unchanged, and by how many decibels."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from bitvar.icons.benchmark.detections import Detection, Detections
from bitvar.icons.benchmark.rules import is_shown
from bitvar.icons.edits.tasks import Box, EditTask

_MARGIN: Final = 2
"""Pixels around the edited object's box that don't count as background, at 64 pixels a side."""

_MOVED: Final = 0.1
"""Share of a side by which the other object's centre may move."""


@dataclass(frozen=True)
class EditScore:
    """What became of one edit.

    Attributes:
        succeeded: Whether the judge sees the wanted object in the edited object's place; where none is wanted, whether
            it sees nothing there.
        unchanged: Whether the judge sees the other object where it was.
        psnr: Peak signal-to-noise ratio in dB of everything outside the edited object's box, at most 60.
    """

    succeeded: bool
    unchanged: bool
    psnr: float


def score_edit(task: EditTask, image: Image.Image, detections: Detections) -> EditScore:
    """Measure one edited image.

    Args:
        task: The edit.
        image: What it made, of the size of the task's image.
        detections: What the judge sees in it.
    """
    side = image.width
    there = [found for found in detections.objects if _is_in(found, task.box, side)]
    wanted = task.wanted
    succeeded = not there if wanted is None else any(is_shown(found, wanted, detections) for found in there)
    unchanged = any(
        is_shown(found, task.other, detections) and _has_stayed(found, task.other_box, side)
        for found in detections.objects
    )
    return EditScore(succeeded, unchanged, background_psnr(task, image))


def recognises(task: EditTask, detections: Detections) -> bool:
    """Tell whether the judge sees the object that must stay in the image before the edit, so that it can judge it."""
    side = task.image.width
    return any(
        is_shown(found, task.other, detections) and _has_stayed(found, task.other_box, side)
        for found in detections.objects
    )


def background_psnr(task: EditTask, image: Image.Image) -> float:
    """Compute the PSNR in dB between an edited image and the task's, outside the edited object's box."""
    before, after = (np.asarray(part.convert("RGB"), dtype=np.float64) for part in (task.image, image))
    counted = np.ones(before.shape[:2], dtype=bool)
    margin = round(_MARGIN * before.shape[1] / 64)
    left, top, right, bottom = task.box
    counted[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = False
    error = np.mean((before - after)[counted] ** 2)
    return float(min(60.0, 10 * np.log10(255.0**2 / max(error, 1e-9))))


def _is_in(detection: Detection, box: Box, side: int) -> bool:
    x, y = (share * side for share in detection.centre)
    return box[0] <= x < box[2] and box[1] <= y < box[3]


def _has_stayed(detection: Detection, box: Box, side: int) -> bool:
    x, y = detection.centre
    return max(abs(x - (box[0] + box[2]) / (2 * side)), abs(y - (box[1] + box[3]) / (2 * side))) <= _MOVED
