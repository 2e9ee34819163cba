"""A study from training to plot, and what it concludes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bitvar.study.run as study_run
from bitvar.cli.main import app
from bitvar.errors import UsageError
from bitvar.study.fit import fit_power_law, rank_correlation
from bitvar.study.plan import StudyRun, Variation, plan_runs
from bitvar.study.plot import draw_labels, draw_study, table
from bitvar.study.results import StudyRow, group_lines
from bitvar.study.run import (
    StudySettings,
    check_study,
    conclude,
    read_finished,
    read_study,
    train_study,
    with_scores,
    write_study,
)
from tests.support.tiny import tiny_pipeline, toy_set

RECIPE = '''
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig, TransformerConfig


def recipe(width: int, steps: int = 2) -> TransformerTraining:
    """Configure a toy run."""
    return TransformerTraining(
        model=TransformerConfig(
            depth=1, width=width, num_heads=2, bits=BITS, text_width=TEXT, max_text_tokens=16,
            schedules=(ScheduleConfig(grids=((1, 1), (4, 4), (16, 16)), reference=(16, 16)),),
        ),
        optimization=OptimizationConfig(steps=steps, batch_size=2, learning_rate=1e-3, warmup_steps=1),
        intervals=IntervalConfig(log=1, validation=2, sample=100, save=2),
    )
'''


def row(label: str, parameters: int, bits: int = 4, samples: int = 10, **metrics: float) -> StudyRow:
    return StudyRow(label, parameters, bits, samples, 10.0 * parameters, {"loss": 0.5, **metrics})


def test_a_power_law_is_found_again_and_says_how_sure_it_is() -> None:
    sizes = np.array([1e5, 3e5, 1e6, 3e6, 1e7])
    exact, noise = 0.3 + 8 * sizes**-0.35, np.array([1, -1, 1, -1, 1]) * 0.01
    fit, wide = fit_power_law(list(sizes), list(exact)), fit_power_law(list(sizes), list(exact + noise))
    assert (fit.floor, fit.exponent) == (pytest.approx(0.3, abs=0.003), pytest.approx(0.35, abs=0.005))
    assert fit.worst < 1e-4 and fit.ranges is not None and wide.ranges is not None
    assert wide.ranges[2][1] - wide.ranges[2][0] > 10 * (fit.ranges[2][1] - fit.ranges[2][0])
    assert fit_power_law(list(sizes), list(3 * sizes**-0.1 - 0.3)).floor == 0.0  # no loss is below 0
    assert fit_power_law(list(sizes[:4]), list(exact[:4])).ranges is None
    assert "left out: a" in wide.describe()
    with pytest.raises(UsageError, match="3 sizes"):
        fit_power_law(list(sizes[:3]), list(exact[:3]))


def test_ranks_correlate() -> None:
    assert rank_correlation([1, 2, 3, 9], [0.1, 5, 6, 7]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2], [1, 1, 2]) == pytest.approx(1)
    assert rank_correlation([1, 1], [1, 2]) is None


def test_losses_of_other_bits_are_not_drawn() -> None:
    rows = [row(f"r{bits}", 100 * bits, bits, frechet=9.0) for bits in (12, 64)]
    for figure in (draw_study(rows), draw_labels(rows)):
        titles = {axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()}
        assert titles == {"Frechet distance"}
    assert set(group_lines(rows)) == {"12 bits", "64 bits"}


def test_a_line_has_equal_bits_and_samples() -> None:
    rows = [row("b", 200), row("a", 100), row("longer", 100, samples=20), row("wider", 100, bits=8)]
    lines = group_lines(rows)
    assert {label: [one.label for one in line] for label, line in lines.items()} == {
        "4 bits, 10 samples": ["a", "b"],
        "4 bits, 20 samples": ["longer"],
        "8 bits, 10 samples": ["wider"],
    }


def test_conclusions_need_enough_runs(tmp_path: Path) -> None:
    rows = [row(f"r{n}", 10**n, loss=0.2 + 0.1 * (6 - n), seen=10.0 * n) for n in range(2, 6)]
    found = conclude(rows, group_lines(rows), ["seen", "frechet"])
    assert list(found.fits) == ["4 bits"] and found.correlations == {"seen": pytest.approx(-1)}
    write_study(found, tmp_path)
    written = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert [one["label"] for one in written["runs"]] == ["r2", "r3", "r4", "r5"]
    assert "Rank correlation of the loss with seen: -1.00" in (tmp_path / "study.md").read_text(encoding="utf-8")
    assert (tmp_path / "study.png").stat().st_size > 5000
    few = conclude(rows[:2], group_lines(rows[:2]), ["seen"])
    assert not few.fits and not few.correlations


def test_scores_belong_to_runs_by_label() -> None:
    rows = with_scores([row("a", 1), row("b", 2)], {"a": {"seen": 25.0}}, {"a": {"seen": (20.0, 30.0)}})
    assert rows[0].metrics["seen"] == 25 and "seen" not in rows[1].metrics
    assert "| a | 1 | 4 | 10 | 2.000 | 0.5000 | 25.0 (20-30) |" in table(rows).splitlines()
    with pytest.raises(UsageError, match="none of the runs"):
        with_scores([row("a", 1)], {"c": {}}, {})


@pytest.fixture
def settings(tmp_path: Path) -> StudySettings:
    model, recipe = tmp_path / "model4", tmp_path / "recipe.py"
    pipe = tiny_pipeline(tmp_path)
    pipe.save_pretrained(model)
    assert pipe.text_encoder is not None
    text = RECIPE.replace("BITS", str(pipe.transformer.config.bits)).replace("TEXT", str(pipe.text_encoder.width))
    recipe.write_text(text, encoding="utf-8")
    encoder = str(model / "text_encoder")
    return StudySettings(recipe, toy_set(tmp_path / "set"), tmp_path / "study", str(model), encoder)


def test_a_study_trains_what_is_missing_once(settings: StudySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plan_runs([Variation.parse("width=16,32")])
    train_study(settings, runs, lambda text: None)
    rows = read_study(settings, runs)
    assert [one.arguments for one in rows] == [{"width": "16"}, {"width": "32"}]
    assert rows[0].parameters < rows[1].parameters and rows[0].flops < rows[1].flops
    assert all(0 < one.metrics["loss"] < 2 and 0 <= one.metrics["accuracy"] <= 100 for one in rows)
    features = [settings.folder(run) for run in runs]
    inodes = [{path.stat().st_ino for path in folder.glob("features-*.safetensors")} for folder in features]
    assert inodes[0] and inodes[0] == inodes[1], "features are made once"
    before = [(folder / "metrics.jsonl").read_bytes() for folder in features]
    train_study(settings, runs, lambda text: None)
    assert before == [(folder / "metrics.jsonl").read_bytes() for folder in features]


def test_only_the_finished_runs_are_reported(settings: StudySettings) -> None:
    runs = plan_runs([Variation.parse("width=16,32")])
    with pytest.raises(UsageError, match="No run of the study is finished"):
        read_finished(settings, runs)
    train_study(settings, runs[1:], lambda text: None)
    assert [one.label for one in read_finished(settings, runs)] == ["width32"]


def test_a_report_is_read_before_any_run(settings: StudySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "train", lambda *given, **named: pytest.fail("a run began"))
    assert settings.tokenizer and settings.text_encoder
    words = ["study", str(settings.recipe), "--data", str(settings.data), "-o", str(settings.out), "--vary", "width=16"]
    words += ["--tokenizer", settings.tokenizer, "--text-encoder", settings.text_encoder]
    assert app([*words, "--report", str(settings.recipe)], standalone_mode=False) == 2
    assert not settings.out.exists()


def test_a_bad_argument_is_refused_before_any_run(settings: StudySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_run, "train", lambda *given, **named: pytest.fail("a run began"))
    for run in (StudyRun("bad", {"width": "15"}), StudyRun("worse", {"hight": "3"})):
        with pytest.raises(UsageError):
            train_study(settings, [StudyRun("good", {"width": "16"}), run], lambda text: None)
    with pytest.raises(UsageError, match="Can't fill in"):
        check_study(
            StudySettings(settings.recipe, settings.data, settings.out, "d{bits}"),
            plan_runs([Variation.parse("width=16")]),
        )


def test_what_is_missing_is_named_before_any_run(settings: StudySettings) -> None:
    runs = plan_runs([Variation.parse("width=16")])
    for spoilt, said in (
        ({"tokenizer": None}, "needs a tokenizer"),
        ({"text_encoder": None}, "needs a text encoder"),
        ({"tokenizer": "no/such/folder/anywhere"}, "no/such/folder"),
        ({"data": settings.out / "none"}, "no data"),
    ):
        with pytest.raises(UsageError, match=said):
            check_study(replace(settings, **spoilt), runs)


def test_the_command_lists_its_runs(
    settings: StudySettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings.tokenizer and settings.text_encoder
    words = ["study", str(settings.recipe), "--data", str(settings.data), "-o", str(settings.out), "--dry-run"]
    words += ["--tokenizer", settings.tokenizer, "--text-encoder", settings.text_encoder]
    app([*words, "--vary", "width=16,32", "--vary", "steps=2,3", "--only", "width16-steps3"], standalone_mode=False)
    assert capsys.readouterr().out == "width16-steps3\n"
    assert not settings.out.exists()
