"""What a run is expected to cost: one function for `--fit` and the recipes, by conventions that its output names."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from bitvar.cli import main as cli
from bitvar.costs.flops import training_flops
from bitvar.official_schedules import SQUARES, official_schedule
from bitvar.training.expected_work import expected_work, longest_schedule, square_schedule
from bitvar.transformer.config import ScheduleConfig

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "paper.py"


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return runpy.run_path(str(RECIPE))


def fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    monkeypatch.setattr(sys, "argv", ["bitvar", "train", str(RECIPE), "--fit", "--device-gib", "72", *more])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(("size", "pixels"), [("125M", 256), ("2B", 512), ("8B", 1024)])
def test_fit_says_the_hours_of_the_table(
    size: str, pixels: int, paper: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fit(monkeypatch, capsys, "--recipe-arg", f"size={size}", "--recipe-arg", f"pixels={pixels}")
    hours = f"{paper['expected_hours'](size, pixels):,.0f}"
    assert f"{hours} hours of one H100" in out
    table = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if re.match(rf"\| {size} \| [\d,]{{7,}} \|", line))
    assert f" {hours} |" in row


def test_fit_names_what_it_counts_with(
    paper: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fit(monkeypatch, capsys, "--recipe-arg", "pixels=256")
    longest = max(schedule.num_tokens for schedule in paper["recipe"]("125M", 256).schedules)
    assert longest == 665
    assert f"samples of up to {longest} tokens at once" in out
    assert "the square of 16 x 16 (521 tokens), both with 128 tokens of text" in out


@pytest.mark.parametrize("pixels", [256, 512, 1024])
def test_work_goes_by_the_square_and_memory_by_the_longest(pixels: int, paper: dict[str, Any]) -> None:
    config = paper["recipe"]("361M", pixels)
    work = expected_work(config)
    assert work.schedule == square_schedule(config) == official_schedule("1.0", SQUARES[pixels])
    assert longest_schedule(config).num_tokens > work.schedule.num_tokens
    assert work.flops_per_sample == training_flops(config.model, work.schedule, text_tokens=128)
    assert work.samples == config.optimization.steps * config.optimization.batch_size


def test_of_several_squares_the_largest_counts(paper: dict[str, Any]) -> None:
    config = paper["recipe"]("125M", 256)
    model = config.model.model_copy(update={"budgets": ("0.06M", "1M", "0.25M")})
    assert square_schedule(config.model_copy(update={"model": model})) == official_schedule("1.0", "1M")


def test_without_a_square_the_nearest_ratio_counts(paper: dict[str, Any]) -> None:
    config = paper["recipe"]("125M", 256)
    wide = [official_schedule(ratio, "0.06M") for ratio in ("0.5", "0.75", "2.0")]
    own = tuple(ScheduleConfig(grids=schedule.grids, reference=schedule.reference) for schedule in wide)
    model = config.model.model_copy(update={"budgets": (), "schedules": own})
    assert square_schedule(config.model_copy(update={"model": model})) == wide[1]


def test_a_short_encoder_counts_its_own_length(paper: dict[str, Any]) -> None:
    config = paper["recipe"]("125M", 256)
    short = config.model_copy(update={"model": config.model.model_copy(update={"max_text_tokens": 64})})
    assert expected_work(short).text_tokens == 64
    assert expected_work(short).hours < expected_work(config).hours
