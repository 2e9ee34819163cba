"""Where captioned sets go, and what is said when nothing of a source is good."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.data.records import Rejected
from bitvar.data.validation import Summary
from bitvar.data.writing import prepare_folder
from bitvar.errors import UsageError


@pytest.mark.parametrize("name", ["samples.jsonl", "manifest.json", "rejected.jsonl", "contact_sheet.png", "images"])
def test_files_of_the_names_of_a_set_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=name):
        prepare_folder(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_an_unfinished_build_goes_on(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "manifest.json").write_text("half")
    prepare_folder(tmp_path)
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("size", ["5" * 5000, "64x" + "6" * 5000, "\u0665", "", "1e2", "0x40", "64x64x64"])
def test_odd_sizes_are_refused(tmp_path: Path, size: str) -> None:
    for i in range(3):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / f"{i}.png")
    result = CliRunner().invoke(app, ["data", "import", str(tmp_path), str(tmp_path / "new"), "--size", size])
    assert (result.exit_code, result.stderr.count("\n  why: ")) == (2, 1)
    assert not (tmp_path / "new").exists()


def test_allowing_more_is_no_cure_where_nothing_is_good() -> None:
    summary = Summary()
    summary.add(Rejected("a", "broken-line", "x"))
    with pytest.raises(UsageError) as error:
        summary.require(1.0)
    assert "max-bad-fraction" not in str(error.value)
