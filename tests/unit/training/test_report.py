"""The page about a run, and the signs of trouble it names."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.training.engine.metrics_log import read_metrics
from bitvar.training.monitor.health import Metrics, find_trouble
from bitvar.training.monitor.report import NUM_SHEETS, build_report

STEPS = range(100, 1300, 100)


def series(*values: float) -> list[tuple[int, float]]:
    return list(zip(STEPS, values, strict=False))


def falling(start: float, end: float) -> list[tuple[int, float]]:
    return series(*(start + (end - start) * i / 11 for i in range(12)))


HEALTHY: dict[str, dict[str, Any]] = {
    "train": {"loss": falling(0.69, 0.3), "accuracy": falling(0.5, 0.85), "gradient_norm": falling(1.0, 0.3)},
    "validation": {
        "loss": falling(0.69, 0.32), "loss/scale_0": falling(0.5, 0.1), "loss/scale_1": falling(0.6, 0.3),
        "bit_entropy/scale_0": falling(0.7, 0.9),
    },
}  # fmt: skip


def changed(phase: str, name: str, values: list[tuple[int, float]]) -> Metrics:
    return {**HEALTHY, phase: {**HEALTHY[phase], name: values}}


def test_a_healthy_or_young_run_has_no_trouble() -> None:
    assert find_trouble(HEALTHY) == []
    assert find_trouble({}) == []
    young = {phase: {name: values[:3] for name, values in found.items()} for phase, found in HEALTHY.items()}
    assert find_trouble(young) == []


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (changed("train", "accuracy", falling(0.5, 0.51)), "coin toss"),
        (changed("validation", "loss", series(0.6, 0.5, 0.4, 0.35, 0.36, 0.38, 0.4)), "rose from 0.35 at step 400"),
        (changed("validation", "bit_entropy/scale_2", falling(0.8, 0.1)), "Bits of scale 3 (0.10 of 1)"),
        (changed("validation", "loss/scale_1", series(*[0.5] * 12)), "Scale 2 no longer learns"),
        (changed("train", "gradient_norm", series(*[0.1] * 10, 5.0, 0.1)), "1 gradient spikes"),
        (changed("train", "skipped", series(0.0, 0.0, 3.0)), "3 updates were left out by step 300"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_sign_of_trouble_is_named_alone(metrics: Metrics, words: str) -> None:
    (trouble,) = find_trouble(metrics)
    assert words in trouble.what
    assert trouble.todo


def test_a_young_coin_toss_is_no_trouble() -> None:
    assert find_trouble(changed("train", "accuracy", falling(0.5, 0.51)[:4])) == []


def test_spikes_need_a_usual() -> None:
    assert find_trouble(changed("train", "gradient_norm", series(0.1, 50.0))) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my <run>"
    (folder / "samples").mkdir(parents=True)
    lines = []
    for phase, found in HEALTHY.items():
        for i, step in enumerate(STEPS):
            values = {name: points[i][1] for name, points in found.items()}
            lines.append(json.dumps({"step": step, "phase": phase, "time": 60.0 * step, **values}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 13', encoding="utf-8")
    for step in STEPS:
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"step-{step:08d}.png")
    (folder / "checkpoints" / "step-00001200").mkdir(parents=True)
    (folder / "checkpoints" / "step-00001200" / "config.json").write_text('{"kind": "transformer"}')
    return folder


def test_the_page_stands_alone(run: Path) -> None:
    page = build_report(run)
    assert page.count("<figure>") == 4 + NUM_SHEETS  # no curve of what the run has no figures for
    assert page.count("data:image/png;base64,") == NUM_SHEETS
    assert "step 1,200" in page
    assert "step 100<" in page
    assert "my &lt;run&gt;" in page
    assert "No known sign of trouble" in page
    assert "&quot;kind&quot;" in page
    assert "src=http" not in page.replace('"', "")
    assert "loss 0.3" in page


@pytest.mark.parametrize(("batch_size", "told"), [(8, True), (7, False)])
def test_two_low_batches_are_a_collapse_if_they_hold_enough_images(run: Path, batch_size: int, told: bool) -> None:
    config = {"kind": "tokenizer", "optimization": {"batch_size": batch_size}}
    (run / "checkpoints" / "step-00001200" / "config.json").write_text(json.dumps(config))
    whole, _, _ = (run / "metrics.jsonl").read_text().rpartition("\n")
    low = [{"step": step, "phase": "train", "time": 60.0 * step, "bit_entropy/scale_0": 0.1} for step in (1300, 1400)]
    (run / "metrics.jsonl").write_text("\n".join([whole, *map(json.dumps, low)]) + "\n")
    assert ("they collapse" in build_report(run)) == told


def test_a_line_that_is_being_written_is_left_out(run: Path) -> None:
    assert read_metrics(run)["train"]["loss"][-1] == (1200, pytest.approx(0.3))


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no metrics\.jsonl"):
        build_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match="no figures yet"):
        build_report(tmp_path)


def test_without_matplotlib_it_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install .*\[report\]"):
        build_report(run)


def test_the_command_writes_the_page(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from bitvar.cli import main as cli

    monkeypatch.setattr(sys, "argv", ["bitvar", "report", str(run)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
