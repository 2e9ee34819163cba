"""Runs as careless users stop, change and export them: what is said names the thing, and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bitvar.data.index_writing import build_index
from bitvar.errors import UsageError
from bitvar.training.engine.identity import RunIdentity, require_same
from bitvar.training.export import pick_best, pick_checkpoint
from tests.unit.cli.test_train import run
from tests.unit.cli.test_train_refusals import command, shared, words, work

__all__ = ["command", "shared", "work"]  # fixtures

CONFIGURATION = {"kind": "transformer", "optimization": {"steps": 2, "seed": 0}, "lora": None}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"data (samples.jsonl)": "b"}, "with other data or models"),
        ({"data (images)": "b"}, "with other data or models"),
        ({"--text-encoder": "b"}, "with other data or models"),
        ({"--init": "b"}, "with other data or models"),
        ({"seed": 1}, "with other settings"),
        ({"lora": {"rank": 2}}, "with other settings"),
    ],
)
def test_what_changed_is_called_what_it_is(changed: dict[str, object], named: str) -> None:
    parts = {"data (samples.jsonl)": "a", "data (images)": "a", "--text-encoder": "a", "--init": "a"}
    settings = {name: value for name, value in changed.items() if name not in parts}
    now = json.loads(json.dumps(CONFIGURATION))
    now["optimization"] |= {"seed": settings.get("seed", 0)}
    now["lora"] = settings.get("lora")
    others = parts | {name: str(value) for name, value in changed.items() if name in parts}
    with pytest.raises(UsageError, match=named):
        require_same(RunIdentity(CONFIGURATION, parts), RunIdentity(now, others), checkpoint=Path("step-00000002"))


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_is_no_run_has_no_checkpoint_best_or_not(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    why = "or is not a run" if exists else "there is no such folder"
    for pick in (pick_checkpoint, pick_best, lambda folder: pick_checkpoint(folder, 3)):
        with pytest.raises(UsageError, match=why):
            pick(folder)


def missing(path: Path) -> str:
    path.unlink()
    return f"missing-image: there is no {path}"


def pipe(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "unreadable-file: It is a pipe or a device"


def cut(path: Path) -> str:
    Image.effect_noise((16, 16), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-60])
    return "broken-image: "


@pytest.mark.parametrize("spoil", [missing, pipe, cut], ids=lambda function: function.__name__)
def test_a_dry_run_names_a_bad_image_as_the_run_does(
    work: Path, spoil: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work / "set" / "images" / "val-1.png"
    reason = spoil(path)
    for more in (["--dry-run"], []):
        _, err = run(monkeypatch, capsys, words(work, *more), 2)
        assert f"Can't use {path}" in err
        assert reason in err
        assert "encoding 3 images" not in err


def test_an_argument_without_a_value_is_told_how_to_have_one(tmp_path: Path) -> None:
    from bitvar.training.recipes import read_recipe

    (tmp_path / "r.py").write_text("def recipe(steps: int = 1): ...\n")
    with pytest.raises(UsageError, match=r"it has no '='\n  do:  write steps=VALUE"):
        read_recipe(tmp_path / "r.py", ["steps"])


@pytest.mark.parametrize("name", ["index.json", "records.npy", "texts.bin", "paths.bin", "path_ends.npy"])
@pytest.mark.parametrize("spoil", ["flip", "gone", "empty"])
def test_a_dry_run_names_a_damaged_index_as_the_run_does(
    work: Path, name: str, spoil: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(work / "set", work / "index")
    path = work / "index" / name
    data = path.read_bytes()
    path.write_bytes({"flip": data[:-1] + bytes([data[-1] ^ 1]), "gone": b"", "empty": b""}[spoil])
    if spoil == "gone":
        path.unlink()
    for more in (["--dry-run"], []):
        _, err = run(monkeypatch, capsys, words(work, "--data", str(work / "index"), *more), 2)
        assert str(work / "index") in err
        assert name in err
        assert "captioned set" not in err


def test_a_run_whose_images_are_gone_says_so_plainly(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(work / "set", work / "index")
    for path in (work / "set" / "images").iterdir():
        path.unlink()
    _, err = run(monkeypatch, capsys, words(work, "--data", str(work / "index")), 2)
    assert "no sample sheets will be drawn: none of their images" in err
    assert "There is no prompt" not in err
    assert "can't be read, the last one" in err


def test_a_run_or_its_adapters_are_no_model_to_begin_from(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = [*words(work), "--init", str(work / "tiny"), "--recipe-arg", "adapters=2"]
    run(monkeypatch, capsys, adapters, 0)
    checkpoint = work / "run" / "checkpoints" / "step-00000002"
    for start, why in ((work / "run", "is a run."), (checkpoint, "holds adapters.")):
        for more in (["--dry-run"], []):
            given = words(work, "--init", str(start), "--out", str(work / "next"), *more)
            _, err = run(monkeypatch, capsys, given, 2)
            assert f"{start} {why}" in err
            assert "encoding" not in err


def test_a_terminal_gets_no_lines_of_steps_before_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    from bitvar.cli.training_display import Display

    for live in (True, False):
        display = Display(2, live=live)
        display.log("step 1/2  loss 0.5")
        display.log("validation step 1/2  loss 0.5")
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("validation")
        assert len(lines) == 2 - live
