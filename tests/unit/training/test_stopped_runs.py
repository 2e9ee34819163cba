"""The command, stopped or changed: what it says, and how it ends."""

import signal
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.cli.test_train import launch, run, words, work
from tests.unit.training.test_tokenizer_training import words as tokenizer_words
from tests.unit.training.test_tokenizer_training import work as tokenizer_work

__all__ = ["tokenizer_work", "work"]


def test_ctrl_c_says_where_it_stopped_and_exits_with_130(work: Path, tmp_path: Path) -> None:
    stopped = launch(words(work, tmp_path, "--recipe-arg", "steps=4000"))
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if line.startswith("step 3/"):
            stopped.send_signal(signal.SIGINT)
            break
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130
    assert "Stopped at step" in err
    assert "the same command resumes" in err
    assert "Cancelled" not in err


def test_a_tokenizer_run_counts_its_images_and_knows_them(
    tokenizer_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tokenizer_words(tokenizer_work, tmp_path / "run")
    out, _ = run(monkeypatch, capsys, [*given, "--dry-run"])
    assert '"tokenizer"' in out
    assert not (tmp_path / "run").exists()
    _, err = run(monkeypatch, capsys, given)
    assert "found 24 images: 23 to train on, 1 held out" in err
    path = tokenizer_work / "images" / "5.png"
    kept = path.read_bytes()
    Image.new("RGB", (24, 24), "red").save(path)
    _, err = run(monkeypatch, capsys, given, code=2)
    assert "data (images) was sha256" in err
    path.write_bytes(kept)
    _, err = run(monkeypatch, capsys, given)
    assert "finished already, at step" in err
    (tokenizer_work / "images" / "new.png").write_bytes(kept)
    _, err = run(monkeypatch, capsys, given, code=2)
    assert "data (images) was sha256" in err
    (tokenizer_work / "images" / "new.png").unlink()
