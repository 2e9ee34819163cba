"""The edits benchmark: its tasks, its measures, and its table."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.cli import main as cli
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import JudgeInfo
from bitvar.icons.benchmark.detections import Detection, Detections
from bitvar.icons.benchmark.pretrained_judge import Judge
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.scene_spec import ObjectSpec
from bitvar.icons.edits import comparison as comparisons
from bitvar.icons.edits.comparison import compare_edits, describe
from bitvar.icons.edits.scores import background_psnr, recognises, score_edit
from bitvar.icons.edits.tasks import KINDS, EditTask, read_tasks
from tests.support.tiny import tiny_pipeline


def row(name: str, kind: str, objects: list[dict[str, Any]], relation: str | None) -> dict[str, Any]:
    return {
        "image_path": f"{name}.png",
        "kind": kind,
        "split": "held_out_prompt",
        "style": "Noto emoji",
        "artist": "noto",
        "background": "white",
        "relation": relation,
        "objects": objects,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three scenes of two boxes each: red on the left, blue on the right."""
    left, right = [2, 10, 30, 50], [34, 10, 62, 50]
    with (tmp_path / "samples.jsonl").open("w") as file:
        for number in range(3):
            image = Image.new("RGB", (64, 64), "white")
            image.paste("red", tuple(left))
            image.paste("blue", tuple(right))
            for kind, relation, colours in (("position", "left", (None, None)), ("colour_pair", None, ("red", "blue"))):
                objects = [
                    {"concept": concept, "artist": "noto", "colour": colour, "box": box}
                    for concept, colour, box in zip(("apple", "car"), colours, (left, right), strict=True)
                ]
                name = f"{kind}-{number}"
                image.save(tmp_path / f"{name}.png")
                file.write(json.dumps(row(name, kind, objects, relation)) + "\n")
    return tmp_path


def test_tasks_say_what_changes_and_what_stays(data: Path) -> None:
    tasks = read_tasks(data, per_kind=3)
    assert [task.kind for task in tasks] == [kind for kind in KINDS for _ in range(3)]
    assert read_tasks(data, per_kind=3)[5].prompt == tasks[5].prompt
    for task in tasks:
        names = {"apple", "car"}
        assert task.other.concept in names and task.other_box != task.box
        edited = (names - {task.other.concept}).pop()
        assert task.source_prompt != task.prompt and task.other.concept in task.prompt
        if task.kind == "remove":
            assert task.wanted is None and edited in task.source_prompt and edited not in task.prompt
        if task.kind == "insert":
            assert task.wanted == ObjectSpec(edited) and edited not in task.source_prompt and edited in task.prompt
            assert np.asarray(task.image.crop(task.box)).min() == 255, "the object is erased"
        if task.kind == "colour":
            assert task.wanted is not None and task.wanted.concept == edited and task.wanted.colour in task.prompt
        if task.kind == "object":
            assert task.wanted is not None and task.wanted.concept not in names


def test_sets_without_scenes_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few scenes"):
        read_tasks(data, per_kind=4)
    with pytest.raises(UsageError, match="no icon set"):
        read_tasks(tmp_path / "none")


def seen(box: tuple[int, ...], concept: str, colour: str = "own") -> Detection:
    left, top, right, bottom = (side / 64 for side in box)
    return Detection((left, top, right, bottom), 0.9, {concept: 0.9}, {colour: 1.0})


def detections(*objects: Detection) -> Detections:
    return Detections(objects, {"white": 1.0})


def test_success_is_the_change_in_its_place_and_unchanged_the_other_in_its_own(data: Path) -> None:
    tasks = {task.kind: task for task in read_tasks(data, per_kind=1)}
    for task in tasks.values():
        other = seen(task.other_box, task.other.concept, task.other.colour or "own")
        wanted = task.wanted or ObjectSpec("dog")
        there = seen(task.box, wanted.concept, wanted.colour or "own")
        both, alone = (score_edit(task, task.image, detections(*found)) for found in ((other, there), (other,)))
        assert both.succeeded == (task.wanted is not None) and both.unchanged
        assert alone.succeeded == (task.wanted is None) and alone.unchanged
        assert not score_edit(task, task.image, detections(there)).unchanged
        moved = replace(other, box=(0.0, 0.8, 0.2, 1.0))
        assert not score_edit(task, task.image, detections(moved, there)).unchanged
        assert recognises(task, detections(other)) and not recognises(task, detections(there))
    colour = tasks["colour"]
    assert colour.wanted is not None
    wrong = seen(colour.box, colour.wanted.concept, "own")
    assert not score_edit(colour, colour.image, detections(wrong)).succeeded


def test_psnr_counts_only_what_lies_outside_the_box(data: Path) -> None:
    task = read_tasks(data, per_kind=1)[0]
    inside, outside = task.image.copy(), task.image.copy()
    inside.paste("green", task.box)
    outside.paste((245, 245, 245), (0, 60, 64, 64))
    assert background_psnr(task, task.image) == background_psnr(task, inside) == 60.0
    share = 4 * 64 / (64 * 64 - 32 * 44)
    assert background_psnr(task, outside) == pytest.approx(10 * np.log10(255**2 / (100 * share)), abs=0.3)


def judge_of(tasks: list[EditTask]) -> Judge:
    """A judge that sees the other object in every image, and nothing else."""

    def detect(images: torch.Tensor) -> list[Detections]:
        return [detections(*(seen(t.other_box, t.other.concept, t.other.colour or "red") for t in tasks))] * len(images)

    return Judge(JudgeInfo("blind", "0" * 64, {}, {}), detect, judge_scene)


class Mean:
    title, name, min_side = "mean", "mean", 1

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first - second).abs().mean(dim=(1, 2, 3))


def test_ways_are_compared_on_the_same_tasks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline(tmp_path / "model")
    tasks = [task for task in read_tasks(data, per_kind=2, seed=3) if task.kind in ("remove", "object")]
    rows = [way for way in comparisons.ROWS if way.name in ("reconstruction", "localized, exact", "remove, exact")]
    monkeypatch.setattr(comparisons, "ROWS", rows)
    said: list[str] = []
    made = compare_edits(pipe, tasks, judge_of(tasks), Mean(), log=said.append)
    assert [(s.name, s.kind) for s in made.summaries] == [
        ("reconstruction", "remove"),
        ("remove, exact", "remove"),
        ("reconstruction", "object"),
        ("localized, exact", "object"),
    ]
    by_name = {(s.name, s.kind): s for s in made.summaries}
    exact, plain = by_name["remove, exact", "remove"], by_name["reconstruction", "remove"]
    assert exact.psnr == 60.0 > plain.psnr and exact.distance == 0.0 < plain.distance
    assert plain.seam is None and exact.seam is not None and exact.seam > 0
    assert len(said) == 4 and len(describe(made)) == 5
    assert json.loads(json.dumps(made.to_json()))["rows"][0]["tasks"] == 2


def test_the_command_refuses_what_exists(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for arguments, expected in (
        ([data, "-o", data], "exists"),
        ([data / "none", "-o", data / "new"], "no icon set"),
    ):
        monkeypatch.setattr(sys, "argv", ["bitvar", "evaluate", "edits", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2 and expected in capsys.readouterr().err
