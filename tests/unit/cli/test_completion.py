"""Shell completion: the names that a shell offers, without loading torch."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from bitvar.cli import completion
from bitvar.editing.spec import Method
from bitvar.pipeline.optimizations import WORDS
from bitvar.sampling import quality
from bitvar.transformer.config import PRESETS
from bitvar.weights.hub import EMBEDDED_MODEL, TOKENIZERS
from bitvar.weights.hub_cache import cached_models

ASK = """
import sys
sys.argv = ["bitvar"]
from bitvar.cli.process import run
try:
    run()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


def complete(line: str, cache: Path, **variables: str) -> list[str]:
    """Ask as bash does at the end of a line, in a process of its own."""
    words = line.split(" ")
    asking = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_BITVAR_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | asking | {"HF_HUB_CACHE": str(cache)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "numpy", "huggingface_hub"} & set(done.stderr.split())
    return done.stdout.split()


def test_what_is_written_out_is_what_there_is() -> None:
    assert tuple(PRESETS) == completion.PRESETS
    assert set(completion.QUALITIES) == set(quality.PRESETS)
    assert completion.FAST_WORDS == WORDS
    assert get_args(Method) == completion.METHODS
    assert (EMBEDDED_MODEL.name,) == completion.PACKAGED_MODELS
    assert {*completion.PACKAGED_TOKENIZERS} == {folder.name for folder in (*TOKENIZERS, EMBEDDED_MODEL)}


def test_models_of_the_cache_are_named(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models--someone--tiny", "models--other--thing"):
        folder = tmp_path / name / "snapshots" / ("0" * 40)
        folder.mkdir(parents=True)
        for file in ("model_index.json", *(["SHA256SUMS.json"] if "tiny" in name else [])):
            (folder / file).write_bytes((tiny_model / file).read_bytes())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert completion.complete_cached("") == ["someone/tiny"] == [model.name for model in cached_models(tmp_path)]
    assert completion.complete_model("") == ["icons", "someone/tiny"]
    assert completion.complete_any_model("f") == ["fine"]
    assert complete("bitvar generate --model s", tmp_path) == ["someone/tiny"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bitvar models v", ["verify"]),
        ("bitvar edit --preset ", ["preserve", "text"]),
        ("bitvar bench generate --preset 2", ["2.2B", "2B", "20B"]),
    ],
    ids=["verb", "own-choice", "preset"],
)
def test_choices(line: str, expected: list[str], tmp_path: Path) -> None:
    assert complete(line, tmp_path) == expected


def test_every_choice_belongs_to_a_command() -> None:
    from bitvar.cli.main import app

    known = set()
    for path, callback in completion._callbacks(app, ""):
        names = callback.__annotations__
        known |= {f"{path} {name}" for name in names} | set(names)
    assert set(completion._CHOICES) <= known


def test_the_script_of_the_shell_is_shown() -> None:
    command = shlex.join([sys.executable, "-m", "bitvar.cli.main", "--show-completion"])
    asking = ["bash", "-c", f"{command}; exit $?"]  # typer finds the shell among its parents
    done = subprocess.run(asking, capture_output=True, text=True, check=True)
    assert "complete_bash" in done.stdout
