"""The benchmark of instructions on icon scenes: 60 held-out ones, the same phrasing and seed for every method."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bitvar.icons.benchmark.judge import SceneJudge
from bitvar.icons.instructions.build import HELD_OUT, SOURCES, TARGETS
from bitvar.icons.instructions.judge import EditJudgement, judge_edit, shares
from bitvar.icons.instructions.spec import KINDS, SceneEdit, from_row
from bitvar.imaging.convert import from_pil
from bitvar.pipeline.instruction_editor import InstructionEditor


@dataclass(frozen=True)
class EditSample:
    """An instruction of a set.

    Attributes:
        edit: The scenes before and after.
        instruction: One of its phrasings.
        source, target: Images before and after, as the set draws them.
    """

    edit: SceneEdit
    instruction: str
    source: Image.Image
    target: Image.Image


def read_edits(data: Path, *, split: str = HELD_OUT, limit: int | None = None) -> list[EditSample]:
    """Read the instructions of a split, each in the phrasing that its place in the split decides.

    Args:
        data: Folder that `build_edit_set` wrote.
        split: "train", "val" or "held_out".
        limit: Largest number to read; None for all.
    """
    text = (data / TARGETS / "samples.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, text.splitlines()) if row["split"] == split][:limit]
    samples = []
    for index, row in enumerate(rows):
        edit = from_row(row["edit"])
        before, after = (Image.open(data / part / row["image_path"]).convert("RGB") for part in (SOURCES, TARGETS))
        samples.append(EditSample(edit, edit.instructions[index % len(edit.instructions)], before, after))
    return samples


def edit_samples(
    editor: InstructionEditor, samples: Sequence[EditSample], *, seed: int = 0, **options: object
) -> list[Image.Image]:
    """Edit every sample's source.

    Args:
        editor: The editor.
        samples: Instructions.
        seed: Seed of every image.
        options: Settings of the draw.
    """
    return [
        editor(sample.instruction, sample.source, seed=seed, **options).images[0].resize(sample.source.size)
        for sample in samples
    ]


def judge_samples(
    judge: SceneJudge, samples: Sequence[EditSample], images: Sequence[Image.Image]
) -> list[EditJudgement]:
    """Judge the edited image of every sample."""
    found = judge.detect(from_pil(images))
    return [judge_edit(detections, sample.edit) for detections, sample in zip(found, samples, strict=True)]


def summarise(samples: Sequence[EditSample], judgements: Sequence[EditJudgement]) -> dict[str, dict[str, float]]:
    """Compute the shares of each kind of instruction, and of all."""
    by_kind = {
        kind: [judgement for sample, judgement in zip(samples, judgements, strict=True) if sample.edit.kind == kind]
        for kind in KINDS
    }
    return {kind: shares(own) for kind, own in by_kind.items() if own} | {"all": shares(judgements)}
