"""What a run writes line by line is read in one way: lines that are none of its own are passed over, and told."""

import json
from pathlib import Path
from typing import Any

import pytest

from bitvar.training.engine.metrics_log import MetricsFile, from_one, is_metrics_row, read_json_lines, read_metrics
from bitvar.training.monitor.health import FEW, Metrics, describe_set, find_trouble
from bitvar.training.monitor.progress import describe_step, format_metrics
from bitvar.training.monitor.report import build_report
from bitvar.training.streaming import BadSamples
from tests.unit.training.test_report import HEALTHY, changed, falling, series
from tests.unit.training.test_training import transformer_training

ROWS = [{"step": step, "phase": "train", "time": 1.0 * step, "loss": 0.5} for step in (1, 2, 3)]
GOOD = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)

FOREIGN: dict[str, bytes] = {
    "zero bytes": b"\0" * 512,
    "words": b"hello",
    "an empty line": b"",
    "a list": b"[1, 2]",
    "a number": b"7",
    "another object": b'{"a": 1}',
    "no phase": b'{"step": 2, "loss": 0.1}',
    "a step of words": b'{"step": "two", "phase": "train"}',
    "a step that is no number": b'{"step": NaN, "phase": "train"}',
    "a negative step": b'{"step": -1, "phase": "train"}',
    "a step that is true": b'{"step": true, "phase": "train"}',
    "another phase": b'{"step": 2, "phase": ["train"]}',
    "a figure of words": b'{"step": 2, "phase": "train", "loss": "low"}',
    "a figure that is a list": b'{"step": 2, "phase": "train", "loss": [1]}',
    "a figure that is infinite": b'{"step": 2, "phase": "train", "loss": 1e999}',
    "a figure of 400 digits": b'{"step": 2, "phase": "train", "loss": 1' + b"0" * 400 + b"}",
    "not UTF-8": b'{"step": 2, "phase": "tr\xff"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_foreign_lines_are_passed_over_and_told(tmp_path: Path, name: str, place: str) -> None:
    lines = GOOD.split(b"\n")[:3]
    lines.insert({"first": 0, "middle": 1, "last": 3}[place], FOREIGN[name])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    told: list[str] = []
    assert read_metrics(tmp_path, log=told.append)["train"]["loss"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert len(told) == 1
    assert f"passed over line {lines.index(FOREIGN[name]) + 1}" in told[0]
    resumed: list[str] = []
    MetricsFile(path, 2, log=resumed.append).write(3, "train", {"loss": 0.25})
    assert resumed == told
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_half_last_line_is_passed_over_and_told(tmp_path: Path, cut: int) -> None:
    path, told = tmp_path / "metrics.jsonl", list[str]()
    path.write_bytes(GOOD[:-cut])
    rows = read_json_lines(path, accept=is_metrics_row, log=told.append)
    assert [row["step"] for row in rows] == [1, 2]
    assert "line 3 (cut short, or being written)" in told[0]


def test_the_page_says_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(GOOD + b"\0\0\0\nhello\n")
    (tmp_path / "checkpoints" / "step-notes").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    (tmp_path / "checkpoints" / "step-00000003" / "config.json").write_bytes(b"\xff\0{")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-mine.png").write_bytes(b"")
    told: list[str] = []
    page = build_report(tmp_path, log=told.append)
    assert len(told) == 1
    assert "line 4 (zero bytes), line 5" in page


@pytest.mark.parametrize("junk", [b"\0\0\0", b"hello\n", b'{"name": 5}\n', b"[]\n", b'{"name": "a", "rea'])
def test_a_damaged_report_of_bad_samples_is_told_and_written_anew(tmp_path: Path, junk: bytes) -> None:
    path, told = tmp_path / "bad_samples-0.jsonl", list[str]()
    path.write_bytes(b'{"name": "x.png", "reason": "altered", "detail": ""}\n' + junk)
    bad = BadSamples(path, 0.5, told.append)
    assert bad.named == {"x.png"}
    assert len(told) == 1
    assert path.read_text().count("\n") == 1
    assert BadSamples(path, 0.5, told.append).named == {"x.png"}
    assert len(told) == 1


# Health


RISING = series(*(0.6 + 0.01 * i for i in range(12)))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (changed("validation", "loss", RISING), "rises from the start: 0.6 at step 100, 0.71 at step 1,200"),
        (changed("validation", "loss", RISING[:3]), "rises from the start"),
        (changed("validation", "loss", series(0.69, 0.6, 0.55, 0.5, 0.5, 0.5)), "far above that of training"),
        (changed("validation", "loss", series(*[0.69] * 12)), "far above that of training"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_carry_over_is_seen(metrics: Metrics, words: str) -> None:
    (trouble,) = [found for found in find_trouble(metrics) if "alidation loss" in found.what]
    assert words in trouble.what


@pytest.mark.parametrize(
    "validation",
    [falling(0.69, 0.32), series(0.5, 0.501), series(0.6, 0.59, 0.6, 0.58, 0.57, 0.5, 0.4, 0.35), series(0.5)],
    ids=str,
)
def test_a_validation_that_falls_or_is_young_is_no_trouble(validation: Any) -> None:
    train = {"loss": falling(0.69, 0.4)}
    assert find_trouble({"train": train, "validation": {"loss": validation}}) == []
    assert find_trouble(HEALTHY) == []


@pytest.mark.parametrize(
    ("images", "is_new", "words"),
    [
        (64, True, ("64 training images", "blobs", "--init icons", "docs/lora.md")),
        (FEW - 1, True, ("by heart",)),
        (64, False, ("--best", "docs/lora.md")),
    ],
)
def test_a_small_set_is_told_before(images: int, is_new: bool, words: tuple[str, ...]) -> None:
    (line,) = describe_set(images, transformer_training(), is_new=is_new)
    assert all(word in line for word in words)


def test_an_ample_set_is_no_matter() -> None:
    assert describe_set(FEW, transformer_training(), is_new=True) == []


# Lines for people


def test_a_line_has_few_figures_of_sensible_digits() -> None:
    values = {"loss": 0.693147, "validation loss": 0.6812345, "samples_per_second": 123.456, "seconds_left": 3723.4}
    line = describe_step(20, 400, values)
    assert line == "step 20/400  loss 0.6931  validation 0.6812  123 samples/s  left 1:02:03"
    many = values | {"teraflops": 0.09144123, "gradient_norm": 1.23456789, "psnr": 17.123}
    assert format_metrics(many) == [
        "loss 0.6931",
        "psnr 17.12 dB",
        "validation 0.6812",
        "123 samples/s",
        "left 1:02:03",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("loss/scale_0", "loss/scale 1"), ("psnr/scale_12", "psnr/scale 13"), ("loss", "loss"), ("scale_x", "scale_x")],
)
def test_scales_are_counted_from_one(name: str, shown: str) -> None:
    assert from_one(name) == shown
