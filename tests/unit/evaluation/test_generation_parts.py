"""The parts of the evaluation of generation: images, items, scores, the sheet, the Frechet distance; spoilt scenes."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.evaluation.benchmarks.base import EvalItem, GeneratedImage, JudgeInfo, Score
from bitvar.evaluation.generation import images, sheet
from bitvar.evaluation.generation import intervals as scores
from bitvar.evaluation.generation.frechet import FrechetMetric
from bitvar.evaluation.generation.images import (
    GenerationSettings,
    find_images,
    generate_images,
)
from bitvar.evaluation.generation.items import matched, shuffled
from bitvar.evaluation.generation.sheet import Cell, SheetRow, draw_rows, example_rows
from bitvar.icons.benchmark.pretrained_judge import CachedJudge, Judge
from bitvar.icons.benchmark.scenes import ScenesBenchmark
from bitvar.pipeline import InfinityPipeline
from tests.unit.evaluation import test_generation as test_scenes
from tests.unit.evaluation.test_generation import NUMBERS, PROMPTS, Means, chosen_prompts, decide, detect, image_of

icon_set, pipeline = test_scenes.icon_set, test_scenes.pipeline  # the fixtures


# Images


def test_an_image_depends_on_its_prompt_and_number_alone(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    few, many = chosen_prompts(("seen",), 1)[:2], chosen_prompts(("seen",), 2)[:5]
    first = generate_images(pipeline, few, tmp_path / "few", num_seeds=2, settings=GenerationSettings(3))
    second = generate_images(pipeline, many, tmp_path / "many", num_seeds=1, settings=GenerationSettings(4))
    alike = {each.path.name: each.path.read_bytes() for each in second}
    shared = [each for each in first if each.path.name in alike]
    assert [each.path.name for each in shared] == ["seen-single-00-0.png", "seen-two-00-0.png"]
    assert all(each.path.read_bytes() == alike[each.path.name] for each in shared)
    assert len({each.path.read_bytes() for each in first}) == 4


@pytest.mark.parametrize("settings", [GenerationSettings(2, guidance=90.0), GenerationSettings(2, temperature=0.1)])
def test_guidance_and_temperature_are_the_models(
    settings: GenerationSettings, pipeline: InfinityPipeline, tmp_path: Path
) -> None:
    prompts = chosen_prompts(("seen",), 1)[:4]
    plain = generate_images(pipeline, prompts, tmp_path / "plain", num_seeds=1, settings=GenerationSettings(2))
    changed = generate_images(pipeline, prompts, tmp_path / "changed", num_seeds=1, settings=settings)
    assert [each.path.read_bytes() for each in plain] != [each.path.read_bytes() for each in changed]


def test_blank_images_go_round_and_know_no_prompt(
    pipeline: InfinityPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "NUM_BLANK", 2)
    prompts = chosen_prompts(("seen",), 1)[:3]
    shown = images.generate_blank_images(pipeline, prompts, tmp_path / "one", settings=GenerationSettings(2))
    assert [each.path.name for each in shown] == ["blank-0.png", "blank-1.png", "blank-0.png"]
    monkeypatch.setattr(images, "BLANK", "a red square")
    monkeypatch.setattr(images, "_seed", lambda name, number: images.zlib.crc32(b"blank") + number)
    other = images.generate_blank_images(pipeline, prompts, tmp_path / "two", settings=GenerationSettings(2))
    assert [each.path.read_bytes() for each in shown] == [each.path.read_bytes() for each in other]


# Items and scores


def test_shuffling_gives_every_image_another_prompt_of_its_kind(tmp_path: Path) -> None:
    prompts = chosen_prompts(("seen", "unseen"), None)
    shown = [
        GeneratedImage(prompt, seed, tmp_path / f"{prompt.id}-{seed}.png") for prompt in prompts for seed in range(2)
    ]
    items = shuffled(shown)
    assert len(items) == len(shown)
    for item in items:
        assert item.prompt.id != item.image.prompt.id
        assert (item.prompt.split, item.prompt.skill) == (item.image.prompt.split, item.image.prompt.skill)
    assert {item.prompt.id for item in items} == {prompt.id for prompt in prompts}
    assert shuffled(shown[:2]) == []


def test_an_image_is_detected_once_and_sizes_may_differ(tmp_path: Path) -> None:
    batches: list[int] = []

    def counting(images: Float[Tensor, "b 3 H W"]) -> list[int]:
        batches.append(len(images))
        return detect(images)

    benchmark = ScenesBenchmark(Judge(JudgeInfo("counting"), counting, decide), tmp_path)
    for i, side in enumerate((16, 16, 24)):
        image_of(i, side).save(tmp_path / f"{i}.png")
    shown = [GeneratedImage(PROMPTS[i], 0, tmp_path / f"{i}.png") for i in range(3)]
    scores = [*benchmark.score(matched(shown)), *benchmark.score([EvalItem(shown[0], PROMPTS[5])])]
    assert batches == [2, 1]
    assert [score.correct for score in scores] == [True, True, True, False]
    assert scores[3].id == PROMPTS[5].id and scores[3].image == str(tmp_path / "0.png")
    image_of(9).save(tmp_path / "9.png")
    assert next(benchmark.score([EvalItem(GeneratedImage(PROMPTS[9], 0, tmp_path / "9.png"), PROMPTS[9])])).correct
    assert batches == [2, 1, 1]
    assert len(CachedJudge(Judge(JudgeInfo("counting"), counting, decide)).detect([*shown, *shown])) == 3


def test_intervals() -> None:
    assert scores.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert scores.wilson(0, 20)[0] == 0 and scores.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    values = np.random.default_rng(0).random(400) < 0.5
    interval = scores.bootstrap(values.astype(float).tolist())
    assert interval == pytest.approx(scores.wilson(int(values.sum()), 400), abs=0.01)
    # the mean of k equal shares has nearly the interval of one share of k times the prompts
    assert scores.interval_of_mean([0.5] * 4, [scores.wilson(50, 100)] * 4) == pytest.approx(
        scores.wilson(200, 400), abs=2e-3
    )
    low, high = scores.interval_of_mean([1.0, 1.0], [scores.wilson(10, 10)] * 2)
    assert 0.75 < low < 0.85 and high == 1.0


def test_prompts_whose_images_are_all_correct_leave_doubt() -> None:
    own = [Score(prompt, "seen", "two", "", seed, "", 1.0, True) for prompt in "abcd" for seed in range(3)]
    [row] = scores.by_skill(own).rows
    assert (row.prompts, row.images, row.score) == (4, 12, 1.0)
    assert (row.low, row.high) == pytest.approx(scores.wilson(4, 4), abs=1e-6)


def test_grades_are_no_shares() -> None:
    """Of a benchmark that gives numbers without a decision."""

    def grade(prompt: str, value: float, skill: str = "one") -> Score:
        return Score(prompt, "all", skill, "", 0, "", value)

    table = scores.by_skill(
        [*(grade(f"{i}", 20.0 + i) for i in range(9)), *(grade(f"b{i}", 30.0, "b") for i in range(2))]
    )
    one, other, mean = table.rows
    assert table.unit == "" and (one.score, other.score, mean.score) == (24.0, 30.0, 27.0)
    assert one.low is not None and one.high is not None and 20 < one.low < 24 < one.high < 28
    assert (other.low, other.high) == (mean.low, mean.high) == (None, None)
    assert (one.prompts, mean.prompts) == (9, 11)


# The sheet


def test_the_sheet_has_correct_and_incorrect_images_of_every_skill(tmp_path: Path) -> None:
    scored = []
    for prompt in chosen_prompts(("seen", "unseen"), 6):
        number = NUMBERS[prompt.payload]
        image_of(number).save(tmp_path / f"{number}.png")
        correct = number % 2 == 0 and prompt.skill != "two"
        item = EvalItem(GeneratedImage(prompt, 0, Path(f"{number}.png")), prompt)
        scored.append(item.judged(correct, [] if correct else ["saw a dog"]))
    rows = {row.heading.split(": ")[1].split(",")[0]: row for row in example_rows("mine", scored, tmp_path)}
    assert rows["two"].heading == "mine: two, 0 of 12 correct"
    assert [cell.correct for cell in rows["two"].cells] == [False] * sheet.EACH
    assert [cell.correct for cell in rows["colour pair"].cells] == [True] * sheet.EACH + [False] * sheet.EACH
    notes = [cell.note for cell in rows["colour"].cells]
    assert notes[0] == "seen: correct" and notes[-1] == "unseen: saw a dog"
    drawn = draw_rows(list(rows.values()))
    x, y = 20 + 5, 20 + 30 + 5
    assert drawn.getpixel((x, y)) == rows["single"].cells[0].image.getpixel((0, 0))


def test_images_are_magnified_and_long_texts_cut() -> None:
    small, large = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (400, 400), "blue")
    text = "a very long prompt with more and more words " * 6
    drawn = draw_rows([SheetRow("x" * 9, [Cell(small, text, text, False), Cell(large, "b", "c")])])
    assert drawn.getpixel((20 + 191, 50 + 191)) == (255, 0, 0)
    assert drawn.getpixel((20 + 192 + 14 + 191, 50 + 191)) == (0, 0, 255)
    pixels = np.asarray(drawn)
    assert (pixels[20 + 30 + 192 + 4 + 6 * 15 + 4 :] == 255).all(), "texts end within their row"
    assert (pixels[260:, 20 + 192 + 1 : 20 + 192 + 13] == 255).all(), "texts end within their column"


# The Frechet distance


def test_the_frechet_distance_is_to_the_validation_split(icon_set: Path, tmp_path: Path) -> None:
    metric = FrechetMetric(Means(), icon_set, "cpu")
    shown = [GeneratedImage(PROMPTS[i], 0, icon_set / f"val-{i}.png") for i in range(4)]
    result = metric(shown)
    assert result.values == {
        "distance": pytest.approx(0, abs=1e-6),
        "images": 4,
        "real_images": 4,
        "network": "means",
    }
    far = [GeneratedImage(PROMPTS[i], 0, icon_set / f"{i}.png") for i in range(4)]
    assert metric(far).values["distance"] > 0.1
    assert metric(far[:1]).values["distance"] is None
    image_of(7, 24).save(tmp_path / "large.png")
    assert metric([far[0], GeneratedImage(PROMPTS[0], 0, tmp_path / "large.png")]).values["images"] == 2
    assert torch.is_grad_enabled()


def test_spoilt_scenes_are_spoilt_as_they_say(icon_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "icons" / "spoil.py"))
    few = chosen_prompts(("seen",), 1)
    monkeypatch.setitem(recipe["main"].__globals__, "eval_prompts", lambda: few)
    monkeypatch.setattr(sys, "argv", ["spoil.py", "--data", str(icon_set), "--out", str(tmp_path)])
    recipe["main"]()
    assert {path.name for path in tmp_path.iterdir()} == {"blurred", "mirrored", "recoloured", "noise"}
    assert all(len(find_images(folder, few)) == len(few) for folder in tmp_path.iterdir())
    turned = recipe["recolour"](Image.new("RGB", (2, 2), (255, 0, 0)))
    red, green, blue = turned.getpixel((0, 0))
    assert green > 250 and max(red, blue) < 8
    assert recipe["recolour"](Image.new("RGB", (2, 2), "white")).getpixel((0, 0)) == (255, 255, 255)
    noise = find_images(tmp_path / "noise", few)
    assert len({each.open().tobytes() for each in noise}) == len(few)
