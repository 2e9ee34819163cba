"""A benchmark is one file: this one, which knows no icons, goes through the whole evaluation."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bitvar.cli.benchmark import print_report
from bitvar.evaluation.benchmarks.base import (
    Benchmark,
    EvalItem,
    EvalPrompt,
    HasReferences,
    JudgeInfo,
    Score,
    Table,
    prompts_digest,
)
from bitvar.evaluation.generation.evaluate import (
    EvaluationSettings,
    NamedImages,
    NamedModel,
    evaluate_generation,
)
from bitvar.evaluation.generation.images import find_images, images_digest
from bitvar.evaluation.generation.intervals import by_skill
from bitvar.evaluation.generation.metrics import Metric, MetricResult
from bitvar.pipeline import InfinityPipeline
from tests.unit.evaluation import test_generation

pipeline = test_generation.pipeline  # the fixture


class Brightness:
    """The benchmark: is an image as bright, or as dark, as its prompt says?"""

    name = "brightness"
    judge = JudgeInfo("mean of the pixels")

    def prompts(self) -> Sequence[EvalPrompt]:
        return [
            EvalPrompt(f"{skill}-{i}", f"a {skill} wall, number {i}", "all", skill, {"bright": skill == "bright"})
            for skill in ("bright", "dark")
            for i in range(3)
        ]

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            mean = float(item.image.open().mean())
            correct = (mean > 127) == item.prompt.payload["bright"]
            yield item.judged(correct, () if correct else (f"its mean is {mean:.0f}",), mean=mean)

    def summarise(self, scores: Sequence[Score]) -> Table:
        return by_skill(scores)


class Grades(Brightness):
    """The same with a number for every image, as preference models give, and no decision."""

    name = "grades"

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            mean = float(item.image.open().mean())
            yield item.graded(mean if item.prompt.payload["bright"] else -mean)


class Count:
    """A metric that counts."""

    name = "count"

    def __call__(self, images: Sequence[object]) -> MetricResult:
        return MetricResult({"images": len(images)})


def walls(folder: Path) -> NamedImages:
    """Right images of all prompts but the last; wider than high."""
    folder.mkdir()
    prompts = Brightness().prompts()
    for i, prompt in enumerate(prompts):
        level = 200 + i if prompt.payload["bright"] or prompt is prompts[-1] else 20 + i
        Image.new("RGB", (24, 16), (level, level, level)).save(folder / f"{prompt.id}.png")
    return NamedImages(label="walls", folder=str(folder), sha256=images_digest(find_images(folder, prompts)))


def test_a_benchmark_of_a_few_lines_goes_through_everything(
    pipeline: InfinityPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark: Benchmark = Brightness()
    assert isinstance(benchmark, Benchmark) and not isinstance(benchmark, HasReferences)
    metric: Metric = Count()
    settings = EvaluationSettings.of(
        benchmark,
        models=(NamedModel(label="tiny", name="tiny", sha256=""),),
        images=(walls(tmp_path / "walls"),),
        seeds=2,
        metrics=("count",),
        dtype="float32",
        device="cpu",
    )
    models, out = {"tiny": pipeline}, tmp_path / "out"

    def stop(text: str) -> None:
        if text == "judging 12 images of tiny-shuffled":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(settings, benchmark, models, out, metrics=[metric], log=stop)
    logged: list[str] = []
    report = evaluate_generation(settings, benchmark, models, out, metrics=[metric], log=logged.append)
    assert not any(line.startswith("tiny:") for line in logged)  # its images are kept
    assert report == json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["settings"]["benchmark"], report["judge"]["name"]) == ("brightness", "mean of the pixels")
    kinds = {entry["candidate"]: (entry["kind"], entry["images"]) for entry in report["candidates"]}
    assert kinds == {
        "walls": ("images", 6),
        "walls-shuffled": ("shuffled", 6),
        "tiny": ("model", 12),
        "tiny-shuffled": ("shuffled", 12),
        "tiny-blank": ("blank", 6),
    }
    assert [entry["metrics"] for entry in report["candidates"]] == [
        {"count": {"images": 6}},
        {},
        {"count": {"images": 12}},
        {},
        {},
    ]
    found = {row["skill"]: row["score"] for row in report["results"] if row["candidate"] == "walls"}
    assert found == {"bright": 1.0, "dark": pytest.approx(2 / 3, abs=1e-6), "mean": pytest.approx(5 / 6, abs=1e-6)}
    line = json.loads((out / "judgements" / "walls.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (line["id"], line["correct"], line["reasons"]) == ("dark-2", False, ["its mean is 205"])
    assert line["details"] == {"mean": 205.0}
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 100
    print_report(report)
    printed = capsys.readouterr().out
    assert "| all   | dark   |" in printed and "66.7" in printed and "judge" not in printed


def test_a_benchmark_may_grade_instead_of_deciding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = EvaluationSettings.of(Grades(), images=(walls(tmp_path / "walls"),), dtype="float32", device="cpu")
    report = evaluate_generation(settings, Grades(), {}, tmp_path / "out")
    assert report["unit"] == ""
    found = {row["skill"]: row for row in report["results"] if row["candidate"] == "walls"}
    assert found["bright"]["score"] == 201 and 200 <= found["bright"]["low"] <= 201 <= found["bright"]["high"] <= 202
    assert found["dark"]["score"] == pytest.approx(-(23 + 24 + 205) / 3)
    print_report(report)
    assert "201 (200" in capsys.readouterr().out


def test_other_prompts_are_another_evaluation() -> None:
    prompts = Brightness().prompts()
    assert prompts_digest(prompts) == prompts_digest(Brightness().prompts())
    changed = [*prompts[:-1], EvalPrompt("dark-2", "a dark wall, number 2", "all", "dark", {"bright": True})]
    assert prompts_digest(prompts) != prompts_digest(changed)
