"""The official toy data's layout, whatever its paths start from: each message names the option that it needs next."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bitvar.cli import main as cli
from bitvar.data.index import SampleIndex
from bitvar.data.records import ReadOptions
from bitvar.data.roots import find_root
from tests.support.captioned import encoded, make_image
from tests.support.tiny import tiny_pipeline
from tests.unit.cli.test_train import RECIPE

CAPTION = " ".join(f"A red cat number {i} sits on the left of a blue square." for i in range(30))
"""Some 400 tokens."""


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Five images, thirty times each, whose paths start three folders above their table."""
    top = tmp_path / "somewhere" / "Official"
    images = top / "data" / "toy" / "images"
    images.mkdir(parents=True)
    (images.parent / "splits").mkdir()
    rows = []
    for i in range(150):
        name = f"{i % 5}.jpg"
        (images / name).write_bytes(encoded(make_image(40, 40, seed=i % 5), "JPEG"))
        rows.append(
            {"image_path": f"data/toy/images/{name}", "h_div_w": "1.0", "long_caption": CAPTION, "text": "a red cat"}
        )
    table = images.parent / "splits" / "1.000_000000150.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return top


def test_each_message_names_the_next_option_and_the_end_trains(
    toy: Path, tmp_path: Path, bitvar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = toy / "data" / "toy" / "splits"
    monkeypatch.chdir(splits.parent)  # a path that is given relatively, as people do
    for verb in (
        ("check", "splits"),
        ("import", "splits", tmp_path / "set", "--size", "16"),
        ("index", "splits", tmp_path / "index"),
    ):
        first = bitvar("data", *verb)
        assert first.code == 2
        assert f"--root {toy}" in first.err
        second = bitvar("data", *verb, "--root", toy)
        assert second.code == 2
        assert "--allow-duplicates" in second.err
        third = bitvar("data", *verb, "--root", toy, "--allow-duplicates")
        assert third.code == 0, third.err
    assert bitvar("data", "check", tmp_path / "index").code == 0  # it knows that it was allowed
    assert bitvar("data", "import", tmp_path / "index", tmp_path / "again", "--size", "16").code == 0
    index = SampleIndex.open(tmp_path / "index")
    assert len(index) == 150
    assert index[0].name.startswith("data/toy/images/")
    tiny_pipeline(tmp_path).save_pretrained(tmp_path / "tiny")
    (tmp_path / "recipe.py").write_text(RECIPE)
    for number, data in enumerate(("set", "index")):
        given = (
            tmp_path / "recipe.py",
            "--data",
            tmp_path / data,
            "--init",
            tmp_path / "tiny",
            "--recipe-arg",
            "steps=2",
        )
        given += () if data == "index" else ("--set", "cut_caption=0")  # a set's features are stored whole
        result = bitvar("train", *given, "--out", tmp_path / f"run{number}", "--device", "cpu", "--workers", 0)
        assert result.code == 0, result.err
        told = {"set": "captions were cut to the 16 tokens the model reads", "index": "1 caption cut so far"}
        assert told[data] in result.err


def test_long_captions_are_counted_beforehand(toy: Path, tmp_path: Path, bitvar: Any) -> None:
    tiny_pipeline(tmp_path).save_pretrained(tmp_path / "tiny")
    given = ("data", "check", toy / "data" / "toy" / "splits", "--root", toy, "--allow-duplicates")
    encoder = ("--text-encoder", tmp_path / "tiny" / "text_encoder")
    result = bitvar(*given, *encoder, "--max-tokens", 16)
    assert "150 of 300 captions are longer than 16 tokens; training cuts them there" in result.out
    found = json.loads(bitvar(*given, *encoder, "--json").out)["long_captions"]
    assert found == {"limit": 512, "captions": 300, "longer": 0}
    assert "can't be used alone" in bitvar(*given, "--max-tokens", 16).err
    assert "Can't read the vocabulary" in bitvar(*given, "--text-encoder", tmp_path).err


def test_no_root_is_made_up(toy: Path, tmp_path: Path, bitvar: Any) -> None:
    splits = toy / "data" / "toy" / "splits"
    assert find_root(splits, ReadOptions()) == toy
    assert find_root(splits, ReadOptions(root=toy)) is None
    for path in (toy / "data" / "toy" / "images").iterdir():
        path.unlink()
    assert find_root(splits, ReadOptions()) is None
    result = bitvar("data", "check", splits)
    assert result.code == 2
    assert "--root" not in result.err
    assert "There is no folder" in bitvar("data", "check", splits, "--root", tmp_path / "gone").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--caption", " "), "Can't use --caption"),
        (("--caption-lines",), "--caption-lines can't be used here"),
    ],
)
def test_options_that_do_nothing_are_refused(toy: Path, bitvar: Any, options: tuple[str, ...], words: str) -> None:
    result = bitvar("data", "check", toy / "data" / "toy" / "splits", *options)
    assert result.code == 2
    assert words in result.err


def test_captions_are_given_on_the_command_line(tmp_path: Path, bitvar: Any) -> None:
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("red_cat-01.png", "0001.png", "notes.md")):
        (tmp_path / "in" / name).write_bytes(encoded(make_image(40, 40, seed=i)))
    result = bitvar("data", "check", tmp_path / "in")
    assert result.code == 2
    assert "--caption TEXT" in result.err
    assert "1 file of other kinds: 1 .md" in result.out
    both = ("--captions-from-names", "--caption", "a thing")
    assert bitvar("data", "check", tmp_path / "in", *both).code == 0
    assert bitvar("data", "index", tmp_path / "in", tmp_path / "index", *both).code == 0
    result = bitvar("data", "import", tmp_path / "in", tmp_path / "set", *both, "--fit", "pad", "--pad-color", "red")
    assert result.code == 0, result.err
    assert "1 file of other kinds: 1 .md" in result.err
    rows = [json.loads(line) for line in (tmp_path / "set" / "samples.jsonl").read_text().splitlines()]
    assert {tuple(row["captions"]) for row in rows} == {("red cat",), ("a thing",)}
    assert "holds paths and captions" in bitvar("data", "check", tmp_path / "index", *both).err
    assert "--fit cover doesn't pad" in bitvar("data", "import", tmp_path / "in", "x", "--pad-color", "red").err
    assert "known" in bitvar("data", "import", tmp_path / "in", tmp_path / "x", "--fit", "xyz").err


def test_icons_are_told_in_a_sentence(tmp_path: Path, bitvar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitvar.icons import dataset as icons

    counts = {"train": {"single": 8, "pair": 4}, "val": {"single": 2}}
    summary = icons.IconSetSummary(tmp_path, 14, counts, already_complete=False)
    monkeypatch.setattr(icons, "build_icon_set", lambda *given, **options: summary)
    said = bitvar("data", "icons", tmp_path).out
    assert said == f"The icon set in {tmp_path} is complete: 14 captioned images (train 12, val 2).\n"
    assert json.loads(bitvar("data", "icons", tmp_path, "--json").out)["counts"] == counts
