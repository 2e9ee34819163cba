"""The parts of `evaluation/scenes`: images, judging, scores, the sheet, the Frechet distance; and spoilt scenes."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.evaluation.generation import images, sheet
from bitvar.evaluation.generation import intervals as scores
from bitvar.evaluation.generation.evaluate import (
    select_prompts,
)
from bitvar.evaluation.generation.images import (
    Making,
    Shown,
    find_images,
    make_images,
)
from bitvar.evaluation.generation.metrics import FrechetMeasure
from bitvar.evaluation.generation.scoring import Case, Jury, Onlooker, own_cases, shuffled_cases
from bitvar.evaluation.generation.sheet import Cell, SheetRow, draw_rows, example_rows
from bitvar.pipeline import InfinityPipeline
from tests.unit.evaluation import test_generation as test_scenes
from tests.unit.evaluation.test_generation import NUMBERS, PROMPTS, Means, give_verdict, image_of, look

icon_set, pipeline = test_scenes.icon_set, test_scenes.pipeline  # the fixtures


# Images


def test_a_image_depends_on_its_prompt_and_number_alone(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    few, many = select_prompts(("seen",), 1)[:2], select_prompts(("seen",), 2)[:5]
    first = make_images(pipeline, few, tmp_path / "few", num_seeds=2, making=Making(3))
    second = make_images(pipeline, many, tmp_path / "many", num_seeds=1, making=Making(4))
    alike = {each.path.name: each.path.read_bytes() for each in second}
    shared = [each for each in first if each.path.name in alike]
    assert [each.path.name for each in shared] == ["seen-single-00-0.png", "seen-two-00-0.png"]
    assert all(each.path.read_bytes() == alike[each.path.name] for each in shared)
    assert len({each.path.read_bytes() for each in first}) == 4


@pytest.mark.parametrize("making", [Making(2, guidance=90.0), Making(2, temperature=0.1)])
def test_guidance_and_temperature_are_the_models(making: Making, pipeline: InfinityPipeline, tmp_path: Path) -> None:
    prompts = select_prompts(("seen",), 1)[:4]
    plain = make_images(pipeline, prompts, tmp_path / "plain", num_seeds=1, making=Making(2))
    changed = make_images(pipeline, prompts, tmp_path / "changed", num_seeds=1, making=making)
    assert [each.path.read_bytes() for each in plain] != [each.path.read_bytes() for each in changed]


def test_blank_images_go_round_and_know_no_prompt(
    pipeline: InfinityPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "NUM_BLANK", 2)
    prompts = select_prompts(("seen",), 1)[:3]
    shown = images.make_blank_images(pipeline, prompts, tmp_path / "one", making=Making(2))
    assert [each.path.name for each in shown] == ["blank-0.png", "blank-1.png", "blank-0.png"]
    monkeypatch.setattr(images, "BLANK", "a red square")
    monkeypatch.setattr(images, "_seed", lambda name, number: images.zlib.crc32(b"blank") + number)
    other = images.make_blank_images(pipeline, prompts, tmp_path / "two", making=Making(2))
    assert [each.path.read_bytes() for each in shown] == [each.path.read_bytes() for each in other]


# Judging and scores


def test_shuffling_gives_every_image_another_prompt_of_its_kind(tmp_path: Path) -> None:
    prompts = select_prompts(("seen", "unseen"), None)
    shown = [Shown(prompt, seed, tmp_path / f"{prompt.id}-{seed}.png") for prompt in prompts for seed in range(2)]
    cases = shuffled_cases(shown)
    assert len(cases) == len(shown)
    for case in cases:
        assert case.prompt.id != case.shown.prompt.id
        assert (case.prompt.split, case.prompt.skill) == (case.shown.prompt.split, case.shown.prompt.skill)
    assert {case.prompt.id for case in cases} == {prompt.id for prompt in prompts}
    assert shuffled_cases(shown[:2]) == []


def test_a_image_is_looked_at_once_and_sizes_may_differ(tmp_path: Path) -> None:
    looked: list[int] = []

    def counting(images: Float[Tensor, "b 3 H W"]) -> list[int]:
        looked.append(len(images))
        return look(images)

    jury = Jury("counting", "", counting, give_verdict, {}, {})
    for i, side in enumerate((16, 16, 24)):
        image_of(i, side).save(tmp_path / f"{i}.png")
    shown = [Shown(PROMPTS[i], 0, tmp_path / f"{i}.png") for i in range(3)]
    onlooker = Onlooker(jury, tmp_path)
    lines = [*onlooker.judge(own_cases(shown)), *onlooker.judge([Case(shown[0], PROMPTS[5])])]
    assert looked == [2, 1]
    assert [line["right"] for line in lines] == [True, True, True, False]
    assert lines[3]["id"] == PROMPTS[5].id and lines[3]["image"] == "0.png"
    image_of(9).save(tmp_path / "9.png")
    assert next(onlooker.judge([Case(Shown(PROMPTS[9], 0, tmp_path / "9.png"), PROMPTS[9])]))["right"]
    assert looked == [2, 1, 1]


def test_intervals() -> None:
    assert scores.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert scores.wilson(0, 20)[0] == 0 and scores.wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    values = np.random.default_rng(0).random(400) < 0.5
    interval = scores.bootstrap(values.astype(float).tolist())
    assert interval == pytest.approx(scores.wilson(int(values.sum()), 400), abs=0.01)
    # the mean of k shares alike: as of one with k times the prompts, nearly
    assert scores.of_mean([0.5] * 4, [scores.wilson(50, 100)] * 4) == pytest.approx(scores.wilson(200, 400), abs=2e-3)
    low, high = scores.of_mean([1.0, 1.0], [scores.wilson(10, 10)] * 2)
    assert 0.75 < low < 0.85 and high == 1.0


def test_prompts_whose_images_are_all_right_leave_doubt() -> None:
    row = {"split": "seen", "skill": "two", "right": True}
    [result] = scores.score([row | {"id": prompt} for prompt in "abcd" for _ in range(3)])
    assert (result["prompts"], result["images"], result["share"]) == (4, 12, 1.0)
    assert (result["low"], result["high"]) == pytest.approx(scores.wilson(4, 4), abs=1e-6)


# The sheet


def test_the_sheet_has_right_and_wrong_images_of_every_skill(tmp_path: Path) -> None:
    lines = []
    for prompt in select_prompts(("seen", "unseen"), 6):
        number = NUMBERS[prompt.request]
        image_of(number).save(tmp_path / f"{number}.png")
        right = number % 2 == 0 and prompt.skill != "two"
        reasons = [] if right else ["saw a dog"]
        lines.append({"split": prompt.split, "skill": prompt.skill, "prompt": prompt.prompt, "image": f"{number}.png"})
        lines[-1] |= {"right": right, "reasons": reasons}
    rows = {row.heading.split(": ")[1].split(",")[0]: row for row in example_rows("mine", lines, tmp_path)}
    assert rows["two"].heading == "mine: two, 0 of 12 right"
    assert [cell.right for cell in rows["two"].cells] == [False] * sheet.EACH
    assert [cell.right for cell in rows["colour pair"].cells] == [True] * sheet.EACH + [False] * sheet.EACH
    notes = [cell.note for cell in rows["colour"].cells]
    assert notes[0] == "seen: right" and notes[-1] == "unseen: saw a dog"
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
    measure = FrechetMeasure(Means(), icon_set, "cpu")
    shown = [Shown(PROMPTS[i], 0, icon_set / f"val-{i}.png") for i in range(4)]
    finding = measure(shown)
    assert finding.figures == {
        "distance": pytest.approx(0, abs=1e-6),
        "images": 4,
        "real_images": 4,
        "network": "means",
    }
    far = [Shown(PROMPTS[i], 0, icon_set / f"{i}.png") for i in range(4)]
    assert measure(far).figures["distance"] > 0.1
    assert measure(far[:1]).figures["distance"] is None
    image_of(7, 24).save(tmp_path / "large.png")
    assert measure([far[0], Shown(PROMPTS[0], 0, tmp_path / "large.png")]).figures["images"] == 2
    assert torch.is_grad_enabled()


def test_spoilt_scenes_are_spoilt_as_they_say(icon_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "icons" / "spoil.py"))
    few = select_prompts(("seen",), 1)
    monkeypatch.setitem(recipe["main"].__globals__, "read_prompts", lambda: few)
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
