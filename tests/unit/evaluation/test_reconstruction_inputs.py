"""What an evaluation reads: odd names, other formats, broken files; numbers that are none stop it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitvar.cli import main as cli
from bitvar.data.listing import open_images
from bitvar.data.walking import Skipped, list_files
from bitvar.errors import ComputationError, UsageError
from bitvar.evaluation.generation.memorisation import thumbnails
from bitvar.evaluation.reconstruction.images import ImageStream, find_source, name_source, open_record
from bitvar.imaging.formats import IMAGE_SUFFIXES
from bitvar.imaging.open import ImageLimits
from bitvar.metrics.frechet import Moments
from bitvar.training.export import save_tokenizer
from tests.support.tiny import tiny_tokenizer

ODD = os.fsdecode(b"odd\xff")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / ODD
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"x")
    for i, name in enumerate(("a.png", f"b{ODD}.webp", "c.tiff", "deep/d.BMP", "deep/e.gif", "f.avif")):
        Image.new("RGB", (40, 40), (40 * i, 9, 9)).save(folder / name)
    (folder / f"z{ODD}.png").write_bytes(b"no image")
    for name in ("n.txt", "m.txt", "o.json", "README", ".DS_Store", "p.jxl"):
        (folder / name).write_text("x")
    return folder


def test_sources_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("a"), tmp_path / "b c%", tmp_path / ODD, Path(os.fsdecode(b"\xfe#?%20"))):
        name = name_source(path)
        assert json.loads(json.dumps(name)).encode()
        assert find_source(name) == path.absolute()
    assert name_source(Path("a")) == str(tmp_path / "a")


def test_every_file_of_a_folder_is_accounted_for(folder: Path) -> None:
    stream = ImageStream([folder])
    entries = list(stream)
    assert len(entries) == 7
    assert [open_record(entry, ImageLimits()).size for entry in entries if "z" not in entry.name] == [(40, 40)] * 6
    said = stream.skipped.describe()
    assert said == "5 files of other kinds skipped (.txt 2, no ending 1, .json 1, .jxl 1), 2 hidden"
    found, skipped = list_files(folder, (".png",))
    assert [path.name for path in found] == ["a.png", f"z{ODD}.png"]
    assert skipped.count == 10
    assert Skipped().describe() == ""


def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone"):
        list_files(tmp_path / "gone", (".png",))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list_files(tmp_path, (".png",))[1].problems == [(tmp_path / "link", "a link to a folder is not followed")]


def test_the_command_goes_on_past_broken_files_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    options = ["--tokenizer", f"mine={tmp_path / 'tokenizer'}", "--size", "32", "--device", "cpu", "--sheet", "2"]
    command = ["bitvar", "evaluate", "reconstruction", str(folder), "-o", str(tmp_path / f"out{ODD}"), *options]
    for _ in range(2):  # measured, then printed
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert stop.value.code == 1, captured.err
        assert "1 images could not be used" in captured.err
        assert "not-an-image" in captured.out
    report = json.loads((tmp_path / f"out{ODD}" / "report.json").read_text())
    assert report["results"][0]["images"] == 6


def test_features_that_are_no_numbers_stop_an_evaluation() -> None:
    moments = Moments(3)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ComputationError, match="features of images"):
            moments.add(torch.tensor([[0.0, 1.0, bad]]))
    assert moments.count == 0


def test_an_image_that_can_not_be_compared_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "gone.png"):
        with pytest.raises(UsageError, match=name):
            thumbnails([tmp_path / name])


def test_a_tokenizers_images_are_counted_in_one_line(folder: Path) -> None:
    lines: list[str] = []
    source = open_images(folder, max_bad_fraction=0.5, report=lines.append)
    assert sum(group.count for group in source.groups) == 6
    assert lines[-1] == (
        "found 7 images: 5 to train on, 1 held out, 1 that can't be used; "
        "5 files of other kinds skipped (.txt 2, no ending 1, .json 1, .jxl 1), 2 hidden"
    )
    for path in folder.rglob("*.*"):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            path.unlink()
    with pytest.raises(UsageError, match=r"has no images(?s:.*)5 files of other kinds skipped \(\.txt 2"):
        open_images(folder)
