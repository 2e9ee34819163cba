"""Methods of editing side by side on the same tasks: the table, the report, and a sheet to look at."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import torch
from PIL import Image

from bitvar.editing.masks import box_mask
from bitvar.editing.paste import seam_visibility
from bitvar.errors import UsageError
from bitvar.icons.benchmark.pretrained_judge import Judge
from bitvar.icons.edits.scores import EditScore, recognises, score_edit
from bitvar.icons.edits.tasks import KINDS, EditTask
from bitvar.imaging.convert import from_pil
from bitvar.imaging.sheet import GridStyle, Tile, draw_grid
from bitvar.metrics.distances import Distance
from bitvar.pipeline.text_to_image import InfinityPipeline

_CHANGES: Final = ("colour", "object")
_SHOWN: Final = 8
"""Number of tasks of each kind on the sheet."""


@dataclass(frozen=True)
class MethodRow:
    """A way to edit, as it is compared.

    Attributes:
        name: Name in the table.
        kinds: Kinds of tasks that it is tried on.
        settings: Fields of `EditSpec`, besides the image.
        masked: Whether it is given the edited object's box as a mask.
        sourced: Whether it is given the source prompt.
        prompt: Prompt in place of the task's; None for the task's.
    """

    name: str
    kinds: tuple[str, ...]
    settings: Mapping[str, Any]
    masked: bool = False
    sourced: bool = False
    prompt: str | None = None


ROWS: Final = (
    MethodRow("reconstruction", KINDS, {"strength": 0.0}),
    MethodRow("fresh image", _CHANGES, {"strength": 1.0}),
    MethodRow("redraw, strength 0.75", _CHANGES, {"strength": 0.75}),
    MethodRow("redraw, strength 0.5", _CHANGES, {"strength": 0.5}),
    MethodRow("difference", _CHANGES, {"method": "difference"}, sourced=True),
    MethodRow("inversion", _CHANGES, {"method": "inversion"}, sourced=True),
    MethodRow("bit-test", _CHANGES, {"method": "bit-test"}, sourced=True),
    MethodRow("localized", _CHANGES, {"method": "localized"}, sourced=True),
    MethodRow("localized, exact", _CHANGES, {"method": "localized", "exact": True}, sourced=True),
    MethodRow("redraw in mask", ("insert", *_CHANGES), {}, masked=True),
    MethodRow("redraw in mask, exact", ("insert", *_CHANGES), {"exact": True}, masked=True),
    MethodRow("tilt in mask", ("insert", *_CHANGES), {"method": "tilt"}, masked=True, sourced=True),
    MethodRow("remove", ("remove",), {"strength": 0.25, "fill": "surroundings"}, masked=True, prompt=""),
    MethodRow(
        "remove, exact", ("remove",), {"strength": 0.25, "fill": "surroundings", "exact": True}, masked=True, prompt=""
    ),
)
"""The ways that are compared. The last ones are what `bitvar edit --remove` does."""


@dataclass(frozen=True)
class EditSummary:
    """How one way to edit did on the tasks of one kind.

    Attributes:
        name: Name of the way.
        kind: Kind of the tasks.
        tasks: Number of tasks.
        success: Share in which the judge sees the change.
        unchanged: Share in which it sees the other object where it was.
        psnr: Median over tasks of the PSNR in dB outside the edited object's box.
        distance: Mean perceptual distance between the images outside the box; smaller is closer.
        seam: Median visibility of the mask's edge (`editing.paste.seam_visibility`); 1 is like its surroundings.
            None without a mask.
        seconds: Median time of an edit.
    """

    name: str
    kind: str
    tasks: int
    success: float
    unchanged: float
    psnr: float
    distance: float
    seam: float | None
    seconds: float


@dataclass(frozen=True)
class EditComparison:
    """The result of a comparison.

    Attributes:
        summaries: A summary for each way and kind of task.
        unrecognised: Number of tasks left out, since the judge doesn't see the other object before the edit.
        sheet: Tasks and edits to look at: for each kind, a row of originals and a row for each way.
    """

    summaries: list[EditSummary]
    unrecognised: int
    sheet: Image.Image

    def to_json(self) -> dict[str, Any]:
        """The comparison without its sheet, for a report."""
        return {"unrecognised": self.unrecognised, "rows": [asdict(summary) for summary in self.summaries]}


def compare_edits(
    pipeline: InfinityPipeline,
    tasks: Sequence[EditTask],
    judge: Judge,
    distance: Distance,
    *,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> EditComparison:
    """Edit every task in every way, and measure the results.

    Args:
        pipeline: Model to edit with.
        tasks: Tasks of any kinds.
        judge: Judge of scenes.
        distance: Perceptual distance of two batches of images.
        seed: Seed of every edit.
        log: Receiver of a line for each finished row.

    Raises:
        UsageError: if the judge recognises none of the tasks' images.
    """
    before = judge.detect(from_pil([task.image for task in tasks])) if tasks else []
    known = [task for task, found in zip(tasks, before, strict=True) if recognises(task, found)]
    if not known:
        raise UsageError("The judge recognises no image of these tasks.", fix="give the icon set that it was made for")
    summaries, strips = [], []
    for kind in KINDS:
        chosen = [task for task in known if task.kind == kind]
        if not chosen:
            continue
        strips.append([task.image for task in chosen[:_SHOWN]])
        for row in ROWS:
            if kind in row.kinds:
                images, seconds = _edit_all(pipeline, chosen, row, seed)
                summaries.append(_summarise(row, kind, chosen, images, seconds, judge, distance))
                strips.append(images[:_SHOWN])
                if log is not None:
                    log(_line(summaries[-1]))
    return EditComparison(summaries, len(tasks) - len(known), _sheet(strips))


def _edit_all(
    pipeline: InfinityPipeline, tasks: Sequence[EditTask], row: MethodRow, seed: int
) -> tuple[list[Image.Image], list[float]]:
    images, seconds = [], []
    for task in tasks:
        spec: dict[str, Any] = {"image": task.image, **row.settings}
        if row.masked:
            spec["mask"] = _mask(task)
        if row.sourced:
            spec["source_prompt"] = task.source_prompt
        started = time.perf_counter()
        drawn = pipeline(task.prompt if row.prompt is None else row.prompt, edit=spec, seed=seed).images[0]
        seconds.append(time.perf_counter() - started)
        images.append(drawn.convert("RGB").resize(task.image.size, Image.Resampling.LANCZOS))
    return images, seconds


def _summarise(
    row: MethodRow,
    kind: str,
    tasks: Sequence[EditTask],
    images: Sequence[Image.Image],
    seconds: Sequence[float],
    judge: Judge,
    distance: Distance,
) -> EditSummary:
    found = judge.detect(from_pil(images))
    scores: list[EditScore] = [score_edit(*case) for case in zip(tasks, images, found, strict=True)]
    originals, edits = (
        from_pil([_without_box(task, image) for task, image in pairs])
        for pairs in ([(task, task.image) for task in tasks], list(zip(tasks, images, strict=True)))
    )
    with torch.inference_mode():
        apart = distance(originals, edits)
    return EditSummary(
        name=row.name,
        kind=kind,
        tasks=len(tasks),
        success=sum(score.succeeded for score in scores) / len(scores),
        unchanged=sum(score.unchanged for score in scores) / len(scores),
        psnr=median(score.psnr for score in scores),
        distance=float(apart.mean()),
        seam=median(map(_seam, tasks, images)) if row.masked else None,
        seconds=median(seconds),
    )


def _seam(task: EditTask, image: Image.Image) -> float:
    return seam_visibility(image, _mask(task))


def _mask(task: EditTask) -> Image.Image:
    left, top, right, bottom = task.box
    return box_mask(task.image.size, (left, top, right - left, bottom - top))


def _without_box(task: EditTask, image: Image.Image) -> Image.Image:
    blank = image.copy()
    blank.paste("white", task.box)
    return blank


def _line(summary: EditSummary) -> str:
    seam = "-" if summary.seam is None else f"{summary.seam:.2f}"
    return (
        f"{summary.kind:8}{summary.name:24}{summary.success:7.0%}{summary.unchanged:7.0%}"
        f"{summary.psnr:7.1f} dB{summary.distance:8.3f}{seam:>7}{summary.seconds:8.2f} s"
    )


def _sheet(strips: Sequence[Sequence[Image.Image]]) -> Image.Image:
    tiles = [Tile(strip[i]) if i < len(strip) else None for strip in strips for i in range(_SHOWN)]
    return draw_grid(tiles, columns=_SHOWN, cell=(96, 96), style=GridStyle(gap=4, outline="#cccccc"))


def describe(comparison: EditComparison) -> list[str]:
    """List the lines of the table, the first of which names its columns."""
    heading = f"{'task':8}{'way':24}{'success':>7}{'same':>7}{'psnr':>10}{'distance':>8}{'seam':>7}{'time':>10}"
    left_out = f"{comparison.unrecognised} tasks were left out: the judge doesn't recognise what must stay in them."
    lines = [heading, *map(_line, comparison.summaries)]
    return [*lines, left_out] if comparison.unrecognised else lines
