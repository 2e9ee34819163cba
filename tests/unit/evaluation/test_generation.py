"""The evaluation of generation as a whole on the scenes benchmark, with a judge that reads numbers off images."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from filelock import FileLock
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage, JudgeInfo
from bitvar.evaluation.generation import evaluate, images
from bitvar.evaluation.generation import intervals as scores
from bitvar.evaluation.generation.evaluate import (
    EvaluationSettings,
    NamedImages,
    NamedModel,
    evaluate_generation,
    require_label,
    select_prompts,
)
from bitvar.evaluation.generation.images import find_images, images_digest
from bitvar.evaluation.generation.items import matched
from bitvar.evaluation.generation.metrics import MetricResult
from bitvar.evaluation.generation.sheet import Cell, SheetRow
from bitvar.icons.benchmark.pretrained_judge import Judge
from bitvar.icons.benchmark.scenes import ScenesBenchmark, eval_prompts, reference_images
from bitvar.icons.dataset.prompts import SPLITS
from bitvar.icons.dataset.scene_spec import SceneSpec
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import tiny_pipeline

PROMPTS = eval_prompts()
NUMBERS = {prompt.payload: i for i, prompt in enumerate(PROMPTS)}


@dataclass(frozen=True)
class Said:
    correct: bool
    reasons: tuple[str, ...]


def image_of(number: int, side: int = 16) -> Image.Image:
    """An image that the judge below takes for the one of prompt `number`."""
    return Image.new("RGB", (side, side), (number // 256, number % 256, 77))


def detect(images: Float[Tensor, "b 3 H W"]) -> list[int]:
    corner = ((images[:, :, 0, 0] + 1) * 127.5).round().int().tolist()
    return [256 * red + green if blue == 77 else -1 for red, green, blue in corner]


def decide(number: int, spec: SceneSpec, skill: str) -> Said:
    correct = number == NUMBERS[spec]
    return Said(correct, () if correct else (f"saw number {number}",))


ACCURACY = {"true_positive_rate": 0.975, "true_negative_rate": 1.0}
INFO = JudgeInfo("reader", "0" * 64, {"single": ACCURACY}, {"note": "never wrong"})
JUDGE = Judge(INFO, detect, decide)


def chosen_prompts(splits: Sequence[str], limit: int | None) -> list[EvalPrompt]:
    return select_prompts(PROMPTS, splits=splits, limit=limit)


def evaluate_scenes(
    settings: EvaluationSettings, models: dict[str, InfinityPipeline], out: Path, **options: Any
) -> Any:
    """Evaluate the scenes benchmark with the judge above."""
    benchmark = ScenesBenchmark(JUDGE, Path(settings.data or ""))
    return evaluate_generation(settings, benchmark, models, out, **options)


class Means:
    """Three features that cost nothing; in the place of a feature network."""

    title: ClassVar[str] = "means"
    width: ClassVar[int] = 3

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        return images.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def icon_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `bitvar data icons` lays it out, its images numbers."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for prompt in chosen_prompts(SPLITS, 4):
        i = NUMBERS[prompt.payload]
        name = f"{i}.png"
        image_of(i).save(folder / name)
        rows.append({"image_path": name, "captions": [prompt.text], "split": "scenes", "prompt_id": prompt.id})
    for i in range(4):
        name = f"val-{i}.png"
        image_of(100 * i).save(folder / name)
        rows.append({"image_path": name, "captions": ["a cat"], "split": "val"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), max_text_tokens=32)


def settings_for(icon_set: Path, *labels: str, **changes: Any) -> EvaluationSettings:
    values: dict[str, Any] = {
        "benchmark": "scenes",
        "prompts_sha256": "",
        "data": str(icon_set),
        "data_sha256": "",
        "splits": ("seen",),
        "limit": 2,
        "models": tuple(NamedModel(label=label, name="tiny", sha256="") for label in labels),
        "images": (),
        "references": True,
        "seeds": 1,
        "guidance": None,
        "temperature": None,
        "judge": INFO.name,
        "judge_sha256": INFO.sha256,
        "metrics": (),
        "feature_network": "mobilenet",
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
    }
    return EvaluationSettings(**(values | changes))


def folder_of(path: Path, prompts: Sequence[Any], *, seeds: int = 0, wrong: Sequence[str] = ()) -> Path:
    """Images made elsewhere: right ones, except of the prompts that are named."""
    path.mkdir()
    for prompt in prompts:
        image = image_of(999 if prompt.id in wrong else NUMBERS[prompt.payload])
        for name in [f"{prompt.id}-{seed}" for seed in range(seeds)] or [prompt.id]:
            image.save(path / f"{name}.png")
    return path


def named(label: str, folder: Path, prompts: Sequence[Any]) -> NamedImages:
    return NamedImages(label=label, folder=str(folder), sha256=images_digest(find_images(folder, prompts)))


def shares(report: dict[str, Any], candidate: str) -> dict[str, float]:
    return {row["skill"]: row["score"] for row in report["results"] if row["candidate"] == candidate}


def files_of(folder: Path) -> dict[str, bytes]:
    """All but times."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", images.BATCHES)]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    if evaluate.REPORT in files:
        report = json.loads(files[evaluate.REPORT])
        for entry in report["candidates"]:
            entry.get("speed", {}).pop("seconds_per_image", None)
            entry.get("speed", {}).pop("batches", None)
        files[evaluate.REPORT] = json.dumps(report).encode()
    return files


# The whole


def test_references_are_the_ceiling_and_the_chance_level(
    icon_set: Path, pipeline: InfinityPipeline, tmp_path: Path
) -> None:
    report = evaluate_scenes(settings_for(icon_set, "tiny"), {"tiny": pipeline}, tmp_path)
    kinds = {entry["candidate"]: (entry["kind"], entry["images"]) for entry in report["candidates"]}
    assert kinds == {
        "real": ("real", 14),
        "tiny": ("model", 14),
        "tiny-shuffled": ("shuffled", 14),
        "tiny-blank": ("blank", 14),
    }
    assert set(shares(report, "real").values()) == {1.0}
    assert set(shares(report, "tiny").values()) == set(shares(report, "tiny-blank").values()) == {0.0}
    assert [row["skill"] for row in report["results"] if row["candidate"] == "real"][-1] == scores.MEAN
    assert {row["prompts"] for row in report["results"]} == {2, 14}
    tiny = report["candidates"][1]
    assert tiny["speed"]["seconds_per_image"] > 0 and tiny["speed"]["batches"] == 4
    assert report["judge"]["metrics"] == {"note": "never wrong"}
    assert report["judge"]["accuracy"] == {"single": ACCURACY}
    assert json.loads((tmp_path / "report.json").read_text()) == report
    line = json.loads((tmp_path / "judgements" / "tiny.jsonl").read_text().splitlines()[0])
    assert line["image"] == "images/tiny/seen-single-00-0.png" and (tmp_path / line["image"]).is_file()
    assert line["reasons"] == ["saw number -1"] and line["correct"] is False and line["score"] == 0
    with Image.open(tmp_path / "sheet.png") as image:
        generated, real = 20 + 30 + 5, image.height - 20 + 14 - 7 * (30 + 192 + 90 + 14) + 30 + 5
        assert image.convert("RGB").getpixel((25, real)) == image_of(0).getpixel((0, 0))  # real images come last
        assert image.convert("RGB").getpixel((25, generated)) != image_of(0).getpixel((0, 0))


def test_without_references_only_the_contender_is_judged(
    icon_set: Path, pipeline: InfinityPipeline, tmp_path: Path
) -> None:
    report = evaluate_scenes(settings_for(icon_set, "tiny", references=False, limit=1), {"tiny": pipeline}, tmp_path)
    assert [entry["candidate"] for entry in report["candidates"]] == ["tiny"]


def test_images_made_elsewhere(icon_set: Path, tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen", "paraphrase"), 2)
    wrong = ["seen-two-00", "paraphrase-count-01", "paraphrase-count-00"]
    folder = folder_of(tmp_path / "theirs", prompts, wrong=wrong)
    settings = settings_for(icon_set, splits=("seen", "paraphrase"), images=(named("theirs", folder, prompts),))
    report = evaluate_scenes(settings, {}, tmp_path / "out")
    found = {(row["split"], row["skill"]): row for row in report["results"] if row["candidate"] == "theirs"}
    assert found["seen", "two"]["score"] == 0.5 and found["paraphrase", "count"]["score"] == 0
    assert found["seen", "mean"]["score"] == pytest.approx(6.5 / 7, abs=1e-6)
    assert (found["seen", "two"]["low"], found["seen", "two"]["high"]) == pytest.approx(scores.wilson(1, 2), abs=1e-6)
    assert set(shares(report, "theirs-shuffled").values()) == {0.0}


def test_several_images_of_a_prompt(icon_set: Path, tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen",), 2)
    folder = folder_of(tmp_path / "theirs", prompts, seeds=3, wrong=["seen-two-00"])
    settings = settings_for(icon_set, images=(named("theirs", folder, prompts),))
    report = evaluate_scenes(settings, {}, tmp_path / "out")
    [two] = [row for row in report["results"] if (row["candidate"], row["skill"]) == ("theirs", "two")]
    assert (two["prompts"], two["images"], two["score"]) == (2, 6, 0.5)
    assert (two["low"], two["high"]) == (0.0, 1.0)  # of two prompts: six images are no six independent ones


class Counting:
    """A metric that shows its images."""

    name: str = "counting"

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        row = SheetRow("first", [Cell(Image.fromarray(images[0].open()), images[0].prompt.text, "nothing")])
        return MetricResult({"images": len(images)}, [row])


def test_measures_see_the_images_of_every_contender(icon_set: Path, tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen",), 2)
    folder = folder_of(tmp_path / "theirs", prompts)
    settings = settings_for(icon_set, images=(named("theirs", folder, prompts),), metrics=("counting",))
    report = evaluate_scenes(settings, {}, tmp_path / "out", metrics=[Counting()])
    found = {entry["candidate"]: entry["metrics"] for entry in report["candidates"]}
    assert found == {
        "real": {"counting": {"images": 14}},
        "theirs": {"counting": {"images": 14}},
        "theirs-shuffled": {},
    }
    with Image.open(tmp_path / "out" / "sheet.png") as with_rows:
        plain = evaluate_scenes(settings_for(icon_set, images=settings.images), {}, tmp_path / "plain")
        assert plain["candidates"][1]["metrics"] == {}
        with Image.open(tmp_path / "plain" / "sheet.png") as without:
            assert with_rows.height > without.height


# Going on, and refusing


@pytest.fixture(scope="module")
def whole(icon_set: Path, pipeline: InfinityPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation in one go."""
    out = tmp_path_factory.mktemp("whole")
    settings = settings_for(icon_set, "tiny", metrics=("counting",))
    evaluate_scenes(settings, {"tiny": pipeline}, out, metrics=[Counting()])
    return out


@pytest.mark.parametrize(
    "after", ["tiny: 8 of 14 images", "judging 14 images of tiny-shuffled", "measuring counting of tiny"]
)
def test_a_stopped_evaluation_goes_on(
    icon_set: Path, pipeline: InfinityPipeline, whole: Path, tmp_path: Path, after: str
) -> None:
    settings, models = settings_for(icon_set, "tiny", metrics=("counting",)), {"tiny": pipeline}
    out = tmp_path / "stopped"

    def stop(text: str) -> None:
        if text == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_scenes(settings, models, out, metrics=[Counting()], log=stop)
    if after.startswith("tiny"):  # as if it had been killed within the batch
        (out / "images" / "tiny" / "seen-count-01-0.png").unlink()
    logged: list[str] = []
    evaluate_scenes(settings, models, out, metrics=[Counting()], log=logged.append)
    assert files_of(out) == files_of(whole)
    assert "tiny: 4 of 14 images" not in logged
    again: list[str] = []
    report = evaluate_scenes(settings, models, out, metrics=[Counting()], log=again.append)
    assert again == [] and report == json.loads((out / "report.json").read_text())


def test_another_evaluation_is_refused(icon_set: Path, tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen",), 1)
    folder = folder_of(tmp_path / "theirs", prompts)
    settings = settings_for(icon_set, limit=1, images=(named("theirs", folder, prompts),))
    evaluate_scenes(settings, {}, tmp_path / "out")
    with pytest.raises(UsageError, match=r"judge_sha256 was .*0000.*, now .*another"):
        evaluate_scenes(settings.model_copy(update={"judge_sha256": "another"}), {}, tmp_path / "out")
    (tmp_path / "out" / "report.json").unlink()
    with pytest.raises(UsageError, match="guidance was null, now 2"):
        evaluate_scenes(settings.model_copy(update={"guidance": 2.0}), {}, tmp_path / "out")
    image_of(5).save(folder / "seen-two-00.png")
    with pytest.raises(UsageError, match="have changed"):
        evaluate_scenes(settings, {}, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(icon_set: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="files that no evaluation wrote"):
        evaluate_scenes(settings_for(icon_set), {}, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["images"]


def test_two_at_once_are_refused(icon_set: Path, tmp_path: Path) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / ".lock"):
            held.set()
            release.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    try:
        with pytest.raises(UsageError, match="Another process"):
            evaluate_scenes(settings_for(icon_set), {}, tmp_path)
    finally:
        release.set()
        other.join()


def test_missing_and_unfit_images_are_refused(icon_set: Path, tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen",), 1)
    folder = folder_of(tmp_path / "theirs", prompts)
    with pytest.raises(UsageError, match="7 of 14 are missing: seen-single-01, seen-two-01, seen-count-01 \\.\\.\\."):
        find_images(folder, chosen_prompts(("seen",), 2))
    with pytest.raises(UsageError, match="There is no folder"):
        find_images(tmp_path / "none", prompts)
    Image.new("RGB", (16, 20)).save(folder / "seen-single-00.png")
    with pytest.raises(UsageError, match="16 x 20"):
        ScenesBenchmark(JUDGE, icon_set).score(matched(find_images(folder, prompts))).__next__()
    (folder / "seen-single-00.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="not-an-image"):
        find_images(folder, prompts)[0].open()


def test_a_set_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no icon set"):
        reference_images(tmp_path, PROMPTS)
    (tmp_path / "samples.jsonl").write_text('{"image_path": "a.png", "captions": ["a cat"], "split": "val"}\n')
    with pytest.raises(UsageError, match="earlier version"):
        reference_images(tmp_path, PROMPTS)
    row = {"image_path": "a.png", "split": "scenes", "prompt_id": PROMPTS[0].id}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert reference_images(tmp_path, PROMPTS[:1])[0].path == tmp_path / "a.png"
    with pytest.raises(UsageError, match="1 of 2 are missing"):
        reference_images(tmp_path, PROMPTS[:2])


@pytest.mark.parametrize("label", ["real", "a-shuffled", "a-blank", "taken", "", "../a", "a b", ".a"])
def test_unfit_labels_are_refused(label: str) -> None:
    with pytest.raises(UsageError, match="Can't call a candidate"):
        require_label(label, ["taken"])
