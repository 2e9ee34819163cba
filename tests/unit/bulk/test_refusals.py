"""Bulk runs: folders, ledgers and names that are refused before anything is drawn or written."""

from pathlib import Path
from typing import Any

import pytest

from bitvar.bulk import LEDGER, WorkItem, generate_work, read_ledger
from bitvar.bulk.cluster import _address_there
from bitvar.bulk.folder import OutputFolder
from bitvar.bulk.settings import claim_folder
from bitvar.bulk.work import check_items
from bitvar.errors import UsageError
from tests.support.drawing import QuickPipeline, item, visible_files


def draw(items: list[WorkItem], folder: Path, **options: Any) -> Any:
    return generate_work(QuickPipeline(), items, folder, batch_size=4, **options)


@pytest.mark.parametrize("text", [b"", b"mine", b'{"mine": 1}\n'], ids=["empty", "open-end", "whole"])
def test_a_foreign_ledger_is_left_alone(tmp_path: Path, text: bytes) -> None:
    (tmp_path / LEDGER).write_bytes(text)
    with pytest.raises(UsageError, match=r"isn't a run of ours(?s:.*)choose another folder"):
        draw([item(0)], tmp_path)
    with pytest.raises(UsageError, match=r"isn't a run of ours"):
        claim_folder(tmp_path, {}, base_seed=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {LEDGER: text}


@pytest.mark.parametrize("text", [b"mine", b'{"mine": 1}', b"x" * 9000], ids=["word", "object", "long"])
def test_only_the_torn_end_of_a_line_of_ours_is_cut_off(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".bulk").mkdir()
    (tmp_path / LEDGER).write_bytes(text)
    with pytest.raises(UsageError, match=r"not a run's ledger"):
        draw([item(0)], tmp_path)
    place = OutputFolder(tmp_path)
    with pytest.raises(UsageError, match=r"not a run's ledger"):
        place.ledger.append([])
    assert (tmp_path / LEDGER).read_bytes() == text
    assert visible_files(tmp_path) == {}


@pytest.mark.parametrize("end", [b"{", b'{"file": "0001.png", "sh\0\0', b"\0" * 5000], ids=["short", "torn", "zeros"])
def test_what_a_kill_or_a_power_cut_leaves_is_cut_off(tmp_path: Path, end: bytes) -> None:
    draw([item(0)], tmp_path)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(end)
    assert draw([item(0), item(1)], tmp_path).drawn == 1
    assert [line.seed for line in read_ledger(tmp_path)] == [0, 1]


def test_a_ledger_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "other.jsonl").write_bytes(b"mine")
    (tmp_path / "out" / LEDGER).symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(UsageError, match="symbolic link"):
        draw([item(0)], tmp_path / "out")
    assert (tmp_path / "other.jsonl").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LEDGER]


def test_lost_settings_are_named(tmp_path: Path) -> None:
    claim_folder(tmp_path, {"guidance": 3}, base_seed=1)
    draw([item(0)], tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(UsageError, match=r"without run\.json(?s:.*)restore run\.json"):
        claim_folder(tmp_path, {"guidance": 3}, base_seed=1)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["x.png/y.png", "x.png"], "file or a folder"),
        (["X.png", "x.PNG/a/y.png"], "file or a folder"),
        (["run.json/x.png"], "a file of the run itself"),
        (["Images.jsonl/x.png"], "a file of the run itself"),
        (["rewrites.jsonl/x.png"], "a file of the run itself"),
        (["a\nb.png"], "a line break"),
        (["a\x1b[2Jb.png"], "control character"),
        (["a\u2028b.png"], "a line break"),
        (["gnp.\u202ea.png"], "writing direction"),
        (["\ud800.png"], "surrogate pair"),
        (["\udc80.png"], "surrogate pair"),
    ],
    ids=["folder", "case", "run", "ledger", "rewrites", "break", "escape", "separator", "bidi", "lone", "escaped"],
)
def test_names_that_can_not_be_written_are_refused_at_once(tmp_path: Path, files: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        draw([item(i, file=file) for i, file in enumerate(files)], tmp_path / "out")
    assert str(caught.value).isprintable() or str(caught.value).replace("\n", "").isprintable()
    assert not (tmp_path / "out").exists()


def test_names_that_only_look_alike_are_allowed() -> None:
    check_items(
        [item(0, file="x/y.png"), item(1, file="x.png"), item(2, file="x/run.json/y.png"), item(3, file="é.png")]
    )


def test_texts_with_half_a_surrogate_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="surrogate pair"):
        draw([item(0), item(1, note={"id": "\ud800"})], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_a_folder_is_named_before_drawing(tmp_path: Path) -> None:
    draw([item(0, file="x.png")], tmp_path)
    with pytest.raises(UsageError, match=r"x\.png is in the way"):
        draw([item(1, file="x.png/deep/y.png")], tmp_path)
    assert draw([item(0, file="x.png"), item(1, file="a/b/y.png")], tmp_path).drawn == 1


def test_a_run_is_accepted_once_nothing_is_in_the_way(tmp_path: Path) -> None:
    calls: list[int] = []

    def accepted() -> None:
        calls.append(len(visible_files(tmp_path)))

    draw([item(0)], tmp_path, accepted=accepted)
    with pytest.raises(UsageError, match="other settings"):
        draw([item(0, guidance=9.0)], tmp_path, accepted=accepted)
    assert calls == [0]
    line = read_ledger(tmp_path)[0]
    assert _address_there(item(0), line) == line.address  # a cluster compares prompt and seed before it starts
    assert _address_there(item(1), line) == _address_there(item(1), None) == ""


def test_an_image_that_was_edited_at_equal_length_is_kept_as_it_is(tmp_path: Path) -> None:
    draw([item(0)], tmp_path)
    edited = bytes(len((tmp_path / "0000.png").read_bytes()))
    (tmp_path / "0000.png").write_bytes(edited)
    assert draw([item(0), item(1)], tmp_path).drawn == 1
    assert (tmp_path / "0000.png").read_bytes() == edited
