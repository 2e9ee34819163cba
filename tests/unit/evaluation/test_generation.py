"""`evaluation/scenes` as a whole: its report, resuming, and what is refused; with a judge that reads numbers."""

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
from bitvar.evaluation.generation import evaluate, images
from bitvar.evaluation.generation import intervals as scores
from bitvar.evaluation.generation.evaluate import (
    NamedImages,
    NamedModel,
    ScenesSettings,
    evaluate_scenes,
    require_label,
    select_prompts,
)
from bitvar.evaluation.generation.images import (
    Shown,
    find_images,
    images_digest,
    real_images,
)
from bitvar.evaluation.generation.metrics import Finding
from bitvar.evaluation.generation.scoring import Jury
from bitvar.evaluation.generation.sheet import Cell, SheetRow
from bitvar.icons.dataset.prompts import SPLITS, read_prompts
from bitvar.icons.dataset.scene_spec import SceneRequest
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import tiny_pipeline

PROMPTS = read_prompts()
NUMBERS = {prompt.request: i for i, prompt in enumerate(PROMPTS)}


@dataclass(frozen=True)
class Said:
    right: bool
    reasons: tuple[str, ...]


def image_of(number: int, side: int = 16) -> Image.Image:
    """An image that the judge below takes for the one of prompt `number`."""
    return Image.new("RGB", (side, side), (number // 256, number % 256, 77))


def look(images: Float[Tensor, "b 3 H W"]) -> list[int]:
    corner = ((images[:, :, 0, 0] + 1) * 127.5).round().int().tolist()
    return [256 * red + green if blue == 77 else -1 for red, green, blue in corner]


def give_verdict(sight: int, request: SceneRequest, skill: str) -> Said:
    right = sight == NUMBERS[request]
    return Said(right, () if right else (f"saw number {sight}",))


ACCURACY = {"true_claims": 0.975, "false_claims": 1.0}
JURY = Jury("reader", "0" * 64, look, give_verdict, {"note": "never wrong"}, {"single": ACCURACY})


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
    for prompt in select_prompts(SPLITS, 4):
        i = NUMBERS[prompt.request]
        name = f"{i}.png"
        image_of(i).save(folder / name)
        rows.append({"image_path": name, "captions": [prompt.prompt], "split": "scenes", "prompt_id": prompt.id})
    for i in range(4):
        name = f"val-{i}.png"
        image_of(100 * i).save(folder / name)
        rows.append({"image_path": name, "captions": ["a cat"], "split": "val"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), max_text_tokens=32)


def settings_for(icon_set: Path, *labels: str, **changes: Any) -> ScenesSettings:
    values: dict[str, Any] = {
        "prompts": "",
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
        "judge": JURY.name,
        "judge_sha256": JURY.sha256,
        "measures": (),
        "feature_network": "mobilenet",
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
    }
    return ScenesSettings(**(values | changes))


def folder_of(path: Path, prompts: Sequence[Any], *, seeds: int = 0, wrong: Sequence[str] = ()) -> Path:
    """Images made elsewhere: right ones, except of the prompts that are named."""
    path.mkdir()
    for prompt in prompts:
        image = image_of(999 if prompt.id in wrong else NUMBERS[prompt.request])
        for name in [f"{prompt.id}-{seed}" for seed in range(seeds)] or [prompt.id]:
            image.save(path / f"{name}.png")
    return path


def named(label: str, folder: Path, prompts: Sequence[Any]) -> NamedImages:
    return NamedImages(label=label, folder=str(folder), sha256=images_digest(find_images(folder, prompts)))


def shares(report: dict[str, Any], contender: str) -> dict[str, float]:
    return {row["skill"]: row["share"] for row in report["results"] if row["contender"] == contender}


def files_of(folder: Path) -> dict[str, bytes]:
    """All but times."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", images.BATCHES)]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    if evaluate.REPORT in files:
        report = json.loads(files[evaluate.REPORT])
        for entry in report["contenders"]:
            entry.get("speed", {}).pop("seconds_per_image", None)
            entry.get("speed", {}).pop("batches", None)
        files[evaluate.REPORT] = json.dumps(report).encode()
    return files


# The whole


def test_references_are_the_ceiling_and_the_floor(icon_set: Path, pipeline: InfinityPipeline, tmp_path: Path) -> None:
    report = evaluate_scenes(settings_for(icon_set, "tiny"), {"tiny": pipeline}, JURY, tmp_path)
    kinds = {entry["contender"]: (entry["kind"], entry["images"]) for entry in report["contenders"]}
    assert kinds == {
        "real": ("real", 14),
        "tiny": ("model", 14),
        "tiny-shuffled": ("shuffled", 14),
        "tiny-blank": ("blank", 14),
    }
    assert set(shares(report, "real").values()) == {1.0}
    assert set(shares(report, "tiny").values()) == set(shares(report, "tiny-blank").values()) == {0.0}
    assert [row["skill"] for row in report["results"] if row["contender"] == "real"][-1] == scores.MEAN
    assert {row["prompts"] for row in report["results"]} == {2, 14}
    tiny = report["contenders"][1]
    assert tiny["speed"]["seconds_per_image"] > 0 and tiny["speed"]["batches"] == 4
    assert report["judge"]["figures"] == {"note": "never wrong"}
    assert report["judge"]["accuracy"] == {"single": ACCURACY}
    assert json.loads((tmp_path / "report.json").read_text()) == report
    line = json.loads((tmp_path / "verdicts" / "tiny.jsonl").read_text().splitlines()[0])
    assert line["image"] == "images/tiny/seen-single-00-0.png" and (tmp_path / line["image"]).is_file()
    assert line["reasons"] == ["saw number -1"] and line["right"] is False
    with Image.open(tmp_path / "sheet.png") as image:
        made, real = 20 + 30 + 5, image.height - 20 - 20 - 7 * (30 + 192 + 90 + 14) + 20 + 30 + 5
        assert image.convert("RGB").getpixel((25, real)) == image_of(0).getpixel((0, 0))  # real images come last
        assert image.convert("RGB").getpixel((25, made)) != image_of(0).getpixel((0, 0))


def test_without_references_only_the_contender_is_judged(
    icon_set: Path, pipeline: InfinityPipeline, tmp_path: Path
) -> None:
    report = evaluate_scenes(
        settings_for(icon_set, "tiny", references=False, limit=1), {"tiny": pipeline}, JURY, tmp_path
    )
    assert [entry["contender"] for entry in report["contenders"]] == ["tiny"]


def test_images_made_elsewhere(icon_set: Path, tmp_path: Path) -> None:
    prompts = select_prompts(("seen", "paraphrase"), 2)
    wrong = ["seen-two-00", "paraphrase-count-01", "paraphrase-count-00"]
    folder = folder_of(tmp_path / "theirs", prompts, wrong=wrong)
    settings = settings_for(icon_set, splits=("seen", "paraphrase"), images=(named("theirs", folder, prompts),))
    report = evaluate_scenes(settings, {}, JURY, tmp_path / "out")
    found = {(row["split"], row["skill"]): row for row in report["results"] if row["contender"] == "theirs"}
    assert found["seen", "two"]["share"] == 0.5 and found["paraphrase", "count"]["share"] == 0
    assert found["seen", "mean"]["share"] == pytest.approx(6.5 / 7, abs=1e-6)
    assert (found["seen", "two"]["low"], found["seen", "two"]["high"]) == pytest.approx(scores.wilson(1, 2), abs=1e-6)
    assert set(shares(report, "theirs-shuffled").values()) == {0.0}


def test_several_images_of_a_prompt(icon_set: Path, tmp_path: Path) -> None:
    prompts = select_prompts(("seen",), 2)
    folder = folder_of(tmp_path / "theirs", prompts, seeds=3, wrong=["seen-two-00"])
    settings = settings_for(icon_set, images=(named("theirs", folder, prompts),))
    report = evaluate_scenes(settings, {}, JURY, tmp_path / "out")
    [two] = [row for row in report["results"] if (row["contender"], row["skill"]) == ("theirs", "two")]
    assert (two["prompts"], two["images"], two["share"]) == (2, 6, 0.5)
    assert (two["low"], two["high"]) == (0.0, 1.0)  # of two prompts: six images are no six independent ones


class Counting:
    """A measure that shows what it is given."""

    name: str = "counting"

    def __call__(self, shown: Sequence[Shown]) -> Finding:
        row = SheetRow("first", [Cell(Image.fromarray(shown[0].open()), shown[0].prompt.prompt, "nothing")])
        return Finding({"images": len(shown)}, [row])


def test_measures_see_the_images_of_every_contender(icon_set: Path, tmp_path: Path) -> None:
    prompts = select_prompts(("seen",), 2)
    folder = folder_of(tmp_path / "theirs", prompts)
    settings = settings_for(icon_set, images=(named("theirs", folder, prompts),), measures=("counting",))
    report = evaluate_scenes(settings, {}, JURY, tmp_path / "out", measures=[Counting()])
    found = {entry["contender"]: entry["measures"] for entry in report["contenders"]}
    assert found == {
        "real": {"counting": {"images": 14}},
        "theirs": {"counting": {"images": 14}},
        "theirs-shuffled": {},
    }
    with Image.open(tmp_path / "out" / "sheet.png") as with_rows:
        plain = evaluate_scenes(settings_for(icon_set, images=settings.images), {}, JURY, tmp_path / "plain")
        assert plain["contenders"][1]["measures"] == {}
        with Image.open(tmp_path / "plain" / "sheet.png") as without:
            assert with_rows.height > without.height


# Going on, and refusing


@pytest.fixture(scope="module")
def whole(icon_set: Path, pipeline: InfinityPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation in one go."""
    out = tmp_path_factory.mktemp("whole")
    settings = settings_for(icon_set, "tiny", measures=("counting",))
    evaluate_scenes(settings, {"tiny": pipeline}, JURY, out, measures=[Counting()])
    return out


@pytest.mark.parametrize(
    "after", ["tiny: 8 of 14 images", "judging 14 images of tiny-shuffled", "measuring counting of tiny"]
)
def test_a_stopped_evaluation_goes_on(
    icon_set: Path, pipeline: InfinityPipeline, whole: Path, tmp_path: Path, after: str
) -> None:
    settings, models = settings_for(icon_set, "tiny", measures=("counting",)), {"tiny": pipeline}
    out = tmp_path / "stopped"

    def stop(text: str) -> None:
        if text == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_scenes(settings, models, JURY, out, measures=[Counting()], tell=stop)
    if after.startswith("tiny"):  # as if it had been killed within the batch
        (out / "images" / "tiny" / "seen-count-01-0.png").unlink()
    told: list[str] = []
    evaluate_scenes(settings, models, JURY, out, measures=[Counting()], tell=told.append)
    assert files_of(out) == files_of(whole)
    assert "tiny: 4 of 14 images" not in told
    again: list[str] = []
    report = evaluate_scenes(settings, models, JURY, out, measures=[Counting()], tell=again.append)
    assert again == [] and report == json.loads((out / "report.json").read_text())


def test_another_evaluation_is_refused(icon_set: Path, tmp_path: Path) -> None:
    prompts = select_prompts(("seen",), 1)
    folder = folder_of(tmp_path / "theirs", prompts)
    settings = settings_for(icon_set, limit=1, images=(named("theirs", folder, prompts),))
    evaluate_scenes(settings, {}, JURY, tmp_path / "out")
    with pytest.raises(UsageError, match=r"judge_sha256 was .*0000.*, now .*another"):
        evaluate_scenes(settings.model_copy(update={"judge_sha256": "another"}), {}, JURY, tmp_path / "out")
    (tmp_path / "out" / "report.json").unlink()
    with pytest.raises(UsageError, match="guidance was null, now 2"):
        evaluate_scenes(settings.model_copy(update={"guidance": 2.0}), {}, JURY, tmp_path / "out")
    image_of(5).save(folder / "seen-two-00.png")
    with pytest.raises(UsageError, match="have changed"):
        evaluate_scenes(settings, {}, JURY, tmp_path / "out")


def test_a_folder_of_something_else_is_refused(icon_set: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="files that no evaluation wrote"):
        evaluate_scenes(settings_for(icon_set), {}, JURY, tmp_path)
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
            evaluate_scenes(settings_for(icon_set), {}, JURY, tmp_path)
    finally:
        release.set()
        other.join()


def test_missing_and_unfit_images_are_refused(icon_set: Path, tmp_path: Path) -> None:
    prompts = select_prompts(("seen",), 1)
    folder = folder_of(tmp_path / "theirs", prompts)
    with pytest.raises(UsageError, match="7 of 14 are missing: seen-single-01, seen-two-01, seen-count-01 \\.\\.\\."):
        find_images(folder, select_prompts(("seen",), 2))
    with pytest.raises(UsageError, match="no such folder"):
        find_images(tmp_path / "none", prompts)
    Image.new("RGB", (16, 20)).save(folder / "seen-single-00.png")
    with pytest.raises(UsageError, match="16 x 20"):
        find_images(folder, prompts)[0].open()
    (folder / "seen-single-00.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="not-an-image"):
        find_images(folder, prompts)[0].open()


def test_a_set_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no icon set"):
        real_images(tmp_path, PROMPTS)
    (tmp_path / "samples.jsonl").write_text('{"image_path": "a.png", "captions": ["a cat"], "split": "val"}\n')
    with pytest.raises(UsageError, match="earlier version"):
        real_images(tmp_path, PROMPTS)
    row = {"image_path": "a.png", "split": "scenes", "prompt_id": PROMPTS[0].id}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert real_images(tmp_path, PROMPTS[:1])[0].path == tmp_path / "a.png"
    with pytest.raises(UsageError, match="1 of 2 are missing"):
        real_images(tmp_path, PROMPTS[:2])


@pytest.mark.parametrize("label", ["real", "a-shuffled", "a-blank", "taken", "", "../a", "a b", ".a"])
def test_unfit_labels_are_refused(label: str) -> None:
    with pytest.raises(UsageError, match="Can't call a contender"):
        require_label(label, ["taken"])
