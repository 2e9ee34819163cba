"""`bitvar generate --control`: options, records, and making an image again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bitvar.pipeline.record import read_record
from tests.support.control import decided_pipeline, drawing, write_adapter
from tests.unit.cli.test_train import run

Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    decided_pipeline(folder).save_pretrained(folder / "model")
    write_adapter(folder / "lines", folder / "model")
    drawing().save(folder / "drawing.png")
    drawing(inset=20).save(folder / "other.png")
    return folder


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def generate(*more: str, code: int = 0) -> tuple[str, str]:
        words = ["bitvar", "generate", *more, "--model", str(folder / "model"), "--device", "cpu"]
        return run(monkeypatch, capsys, words, code)

    return generate


def control(folder: Path, image: str = "drawing.png") -> list[str]:
    return ["--control", str(folder / "lines"), "--control-image", str(folder / image)]


def test_an_image_follows_its_drawing_and_can_be_made_again(folder: Path, command: Run, tmp_path: Path) -> None:
    out, plain, again = (str(tmp_path / f"{name}.png") for name in ("out", "plain", "again"))
    command("a red circle", "--seed", "3", "-o", out, *control(folder), "--control-strength", "0.8")
    command("a red circle", "--seed", "3", "-o", plain)
    assert Image.open(out).tobytes() != Image.open(plain).tobytes()
    record = read_record(Path(out)).control
    assert record is not None and record.strength == 0.8 and record.kind == "lines"
    _, err = command("--from", out, "-o", again, *control(folder))
    assert Path(again).read_bytes() == Path(out).read_bytes() and "Changed" not in err
    assert str(folder) not in json.dumps(read_record(Path(out)).model_dump())


def test_what_differs_from_the_record_is_said(folder: Path, command: Run, tmp_path: Path) -> None:
    out, again = str(tmp_path / "out.png"), str(tmp_path / "again.png")
    command("a red circle", "--seed", "3", "-o", out, *control(folder))
    _, err = command("--from", out, "-o", again, *control(folder, "other.png"))
    assert "control image:" in err
    _, err = command("--from", out, "-o", str(tmp_path / "b.png"), code=2)
    assert "was made with a control" in err and "--control-image" in err
    command("a red circle", "-o", str(tmp_path / "plain.png"))
    _, err = command("--from", str(tmp_path / "plain.png"), "-o", str(tmp_path / "c.png"), *control(folder))
    assert "control: none ->" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--control", "lines"], "without --control-image"),
        (["--control-image", "drawing.png"], "without --control"),
        (["--control-strength", "0.5"], "without --control"),
        (["--control", "FOLDER/lines", "--control-image", "missing.png"], "missing.png"),
        (["--control", "FOLDER/lines", "--control-image", "FOLDER/drawing.png", "--control-kind", "depth"], "depth"),
        (["--control", "FOLDER/lines", "--control-image", "FOLDER/drawing.png", "--control-strength", "9"], "strength"),
        (["--control", "nothing", "--control-image", "FOLDER/drawing.png"], "no control adapter 'nothing'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    folder: Path, command: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    words = [option.replace("FOLDER", str(folder)) for option in options]
    _, err = command("a red circle", "-o", str(tmp_path / "out.png"), *words, code=2)
    assert message in err
    assert not (tmp_path / "out.png").exists()
