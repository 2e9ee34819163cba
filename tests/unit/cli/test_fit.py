"""`bitvar fit`: what it prints, that it loads no weights, and that it agrees with a process that generates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitvar.cli.main import main
from bitvar.profiling.fit import CARDS, FitRequest, describe_cards, predict_fit

PAGE = Path(__file__).parents[3] / "docs" / "memory.md"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["bitvar", "fit", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return told.out, told.err, stop.value.code


def test_it_names_the_parts_and_the_first_settings_that_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("2B", "--size", "1024x1024", "--device", "cuda", "--device-gib")
    out, _, code = run(monkeypatch, capsys, *words, "80")
    assert code == 0
    assert "of 80.0 GiB: fits" in out
    assert "1 image of 1024x1024 (10,521 tokens), guided, in bf16 on cuda" in out
    assert "--offload" not in out
    small, _, _ = run(monkeypatch, capsys, *words, "6", "--dtype", "fp32", "-n", "4")
    assert "of 6.0 GiB: does not fit" in small
    lines = [line.strip().partition(",")[0] for line in small.splitlines() if line.startswith(("  -", "  and -"))]
    assert lines == ["--dtype bf16", "and -n 1", "and --offload text", "and --offload blocks"]
    assert "a prediction" in small


def test_json_has_the_same_in_bytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(run(monkeypatch, capsys, "8B", "--device-gib", "24", "--json")[0])
    assert (facts["width"], facts["height"], facts["dtype"], facts["device"]) == (1024, 1024, "bf16", "cuda")
    assert facts["peak"] == max(facts["phases"].values())
    assert facts["fits"] is False
    assert facts["changes"][-1]["fits"] is True
    embedded = json.loads(run(monkeypatch, capsys, "--device", "cpu", "--json")[0])
    assert embedded["model"] == "icons"
    assert embedded["parts"]["process"] > 100 << 20
    assert embedded["guided"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("3B",), "There is no model '3B'"),
        (("2B", "--device-gib", "8", "--device", "tpu"), "tpu"),
        (("2B", "--size", "9000x9000"), "out of this model's range"),
        (("2B", "--offload", "cache"), "cache"),
        (("2B", "--dtype", "int3"), "Unknown dtype"),
        (("2B", "--device", "cpu", "--offload", "blocks"), "can't be offloaded from a CPU"),
        (("2B", "--device-gib", "inf", "--json"), "can't be inf GiB"),
        (("2B", "--guidance", "nan"), "can't be nan"),
        (("2B", "--cards", "--json"), "no JSON form"),
    ],
)
def test_wrong_options_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    _, err, code = run(monkeypatch, capsys, *words)
    assert code == 2
    assert message in err


def test_no_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    monkeypatch.setattr("bitvar.weights.tensors.load_file", refuse)
    assert predict_fit(FitRequest(device="cpu")).fits


def test_the_tables_in_the_docs_are_what_the_command_prints() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for model in ("2B", "8B"):
        table = describe_cards(FitRequest(model, (1024, 1024)))
        assert len(table.splitlines()) == 2 + len(CARDS)
        assert table in page, f"print it again: bitvar fit {model} --size 1024x1024 --cards"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process as Linux counts it")
@pytest.mark.parametrize("options", [(), ("--dtype", "bf16"), ("-n", "8"), ("--fast", "off")], ids=" ".join)
def test_a_process_that_generates_has_the_predicted_peak(options: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitvar.cli.main"]
    words = ["--model", "icons", "--device", "cpu", *options]
    said = subprocess.check_output([*command, "fit", "icons", *words[2:], "--json"])
    drawing = [*command, "generate", "a red apple", "--seed", "1", *words, "-o", str(tmp_path / "{index}.png")]
    process = subprocess.Popen(drawing, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, code, use = os.wait4(process.pid, 0)
    assert code == 0
    assert json.loads(said)["peak"] == pytest.approx(use.ru_maxrss << 10, rel=0.1)
