"""`bitvar bench compare`: two settings of `bitvar bench generate`, told in text and in JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


def run(*command: object) -> Any:
    return CliRunner().invoke(app, ["bench", "compare", *map(str, command)])


def test_json_has_both_settings_with_their_ratios_and_the_machine(model: Path) -> None:
    result = run("--a", "-n 2 --fast off", "--b", "--dtype bf16 --threads 1", "--both", f"--model '{model}'",
                 "--runs", 2, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["a"]["dtype"], found["b"]["dtype"], found["b"]["threads"]) == ("float32", "bfloat16", 1)
    assert found["a"]["options"] == f"--model '{model}' -n 2 --fast off" and found["a"]["optimizations"] == []
    assert {"median", "low", "high"} == found["ratios"]["total_s"].keys()
    assert found["pairs"] == 2
    assert {"processor", "flags", "torch"} <= found["machine"].keys()
    assert found["a"]["attainable_flops_per_second"]["decode_s"] > 0
    assert isinstance(found["remarks"], list)


def test_text_has_a_line_for_every_stage(model: Path) -> None:
    result = run("--a", f"--model '{model}'", "--b", f"--model '{model}' --guidance 3", "--runs", 2)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    stages = lines[next(i for i, line in enumerate(lines) if line.startswith("stage")) + 1 :]
    names = ["text", "scale_1", "scale_2", "scale_3", "scales", "decode", "total"]
    assert [line.split()[0] for line in stages if not line.startswith("NOTE")] == names
    assert all(len(line) <= 140 for line in lines if "--model" not in line)
    assert any(line.startswith("others ") for line in lines)
    assert "%)" in stages[1]
    short = run("--a", f"--model '{model}'", "--b", f"--model '{model}'", "--runs", 2, "--no-roofline")
    assert "%)" not in short.output and "attainable" not in short.output


@pytest.mark.parametrize(
    ("a", "says"),
    [
        ("--colour red", "No such option: --colour"),
        ("--dtype 'bf16", "No closing quotation"),
        ("--runs 3", "--runs belongs to neither setting"),
        ("--json", "--json belongs to neither setting"),
        ("--threads 0", "Invalid value for '--threads'"),
        ("--help", "asks for help"),
        ("--dtype bogus", "Unknown dtype"),
        ("--fast bogus", "bogus"),
        ("stray", "stray"),
    ],
)
def test_a_bad_setting_is_a_usage_error(a: str, says: str) -> None:
    result = run("--a", a, "--b", "")
    assert result.exit_code == 2, result.output
    assert says in result.stderr
