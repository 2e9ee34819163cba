"""A wrong option is exit code 2, and a model's own bad files are 3, whichever command meets them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.tokenizer import TOKENIZER_PRESETS
from bitvar.transformer import PRESETS
from bitvar.weights.digests import write_manifest
from bitvar.weights.hub import EMBEDDED_TOKENIZER
from tests.support.tiny import tiny_tokenizer, tiny_transformer


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "red").save("x.png")
    return tmp_path


def run(*command: str) -> Any:
    return CliRunner().invoke(app, list(command))


COMMANDS = {
    "generate": ("generate", "a dog", "-o", "y.png"),
    "encode": ("tokenizer", "encode", "x.png", "-o", "y.bits"),
    "encode with a model": ("tokenizer", "encode", "x.png", "-o", "y.bits", "--tokenizer", "icons"),
    "decode": ("tokenizer", "decode", "x.bits", "-o", "y.png"),
    "evaluate": ("evaluate", "reconstruction", "x.png", "-o", "report"),
    "bench": ("bench", "generate", "--runs", "1"),
    "bench with a preset": ("bench", "generate", "--runs", "1", "--preset", "125M"),
}
WRONG = {
    "dtype": ("--dtype", "bogus"),
    "fp64": ("--dtype", "fp64"),
    "no dtype": ("--dtype", ""),
    "device": ("--device", "bogus"),
    "a device that is not there": ("--device", "cuda:99"),
    "number of a device": ("--device", "5"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_wrong_option_is_a_usage_error(
    command: str, wrong: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "125M", tiny_transformer().config)  # the real ones take seconds to build
    monkeypatch.setitem(TOKENIZER_PRESETS, "d32", tiny_tokenizer().config)
    if command == "decode":
        assert run("tokenizer", "encode", "x.png", "-o", "x.bits").exit_code == 0
    result = run(*COMMANDS[command], *WRONG[wrong])
    assert result.exit_code == 2, result.output
    assert "why:" in result.stderr or "Unknown dtype" in result.stderr
    assert not list(elsewhere.glob("y.*"))


@pytest.mark.parametrize("dtype", ["bogus", "", "fp64", "auto"])
def test_convert_takes_no_other_dtype(dtype: str) -> None:
    result = run("convert", "nowhere.pth", "new", "--dtype", dtype)
    assert result.exit_code == 2, result.output


def test_train_takes_no_other_precision(elsewhere: Path) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "tokenizer.py"
    command = ("train", str(recipe), "--out", "run", "--data", ".", "--dry-run", "--set")
    assert run(*command, "optimization.precision=bogus").exit_code == 2


BAD_DEFAULTS = {
    "negative guidance": {"guidance_scale": -1},
    "guidance of another kind": {"guidance_scale": "strong"},
    "temperature that is NaN": {"temperature": float("nan")},
    "infinite guidance": {"guidance_scale": float("inf")},
    "top_p of 7": {"top_p": 7},
    "top_k of -1": {"top_k": -1},
    "top_k of 1.5": {"top_k": 1.5},
    "two values for three scales": {"guidance_scale": [1, 2]},
    "four values for three scales": {"temperature": [1, 1, 1, 1]},
    "no value": {"guidance_scale": []},
    "one bad value of three": {"temperature": [1, 1, -1]},
}


@pytest.mark.parametrize("name", list(BAD_DEFAULTS))
def test_bad_defaults_of_a_model_are_its_own_fault(name: str, elsewhere: Path, tiny_model: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, elsewhere / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    index["defaults"] |= BAD_DEFAULTS[name]
    (folder / "model_index.json").write_text(json.dumps(index))
    write_manifest(folder)
    result = run("generate", "a dog", "--model", "model", "-o", "y.png")
    assert result.exit_code == 3, result.output
    assert result.stderr.count("\n") == 3
    assert not (elsewhere / "y.png").exists()


@pytest.mark.parametrize("values", [[1.0, 1.5, 2.0], [2.0]])
def test_defaults_of_one_value_a_scale_are_fine(values: list[float], elsewhere: Path, tiny_model: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, elsewhere / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    index["defaults"]["guidance_scale"] = values
    (folder / "model_index.json").write_text(json.dumps(index))
    write_manifest(folder)
    assert run("generate", "a dog", "--model", "model", "-o", "y.png").exit_code == 0


def test_a_tokenizer_with_a_bad_configuration_is_its_own_fault(elsewhere: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED_TOKENIZER, elsewhere / "mine"))
    (folder / "config.json").write_text('{"bits": 0}')
    write_manifest(folder)
    assert run("tokenizer", "encode", "x.png", "-o", "y.bits", "--tokenizer", "mine").exit_code == 3
