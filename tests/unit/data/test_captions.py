"""What a caption may hold, where it comes from, and how much of it is read: the same in every layout."""

import json
from collections import Counter
from pathlib import Path

import pytest

from bitvar.data.captions import cut_text, cut_to
from bitvar.data.layouts import kinds_text, read_records
from bitvar.data.records import RawSample, ReadOptions, Rejected, fold_captions, parse_record, words_of_name
from bitvar.errors import UsageError
from bitvar.imaging.open import RefusedError
from bitvar.training.transformer.long_captions import CaptionLimit
from tests.support.captioned import encoded, make_image, tar

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\u00addog", "adog"),
        ("a\u200bdog", "adog"),
        ("a \u202edog\u202c \u2066cat\u2069 \u200e\u200f\u061c", "a dog cat"),
        ("\ufeffa dog\ufeff", "a dog"),
        ("a\u2060dog\u180e\ufff9", "adog"),
        (f"{FAMILY} a family", f"{FAMILY} a family"),
        (f"the flag {ENGLAND}", f"the flag {ENGLAND}"),
        ("\u0645\u06cc\u200c\u062f\u0648", "\u0645\u06cc\u200c\u062f\u0648"),
        ("a \U0001fae9 face", "a \U0001fae9 face"),
        ("an emoji to come \U0001fadd", "an emoji to come \U0001fadd"),
        ("private \ue000 \U000f0000", "private \ue000 \U000f0000"),
        ("unassigned \u0378", "unassigned \u0378"),
        ("a heart \u2764\ufe0f", "a heart \u2764\ufe0f"),
        ("two\u2028lines\u2029here\x85and\x0b\x0cthere\tnow", "two lines here and there now"),
    ],
    ids=ascii,
)
def test_marks_of_layout_are_left_out_and_everything_written_is_kept(given: str, kept: str) -> None:
    assert fold_captions([given]) == (kept,)


@pytest.mark.parametrize(
    "bad",
    ["\0", "\x1b[31m", "\x07", "\x1c", "\x7f", "\x9b", "\ud800", "\udfff", "\ufdd0", "\uffff", "\U0010fffe"],
    ids=ascii,
)
def test_control_characters_and_what_is_none_are_refused(bad: str) -> None:
    with pytest.raises(RefusedError, match="bad-caption"):
        fold_captions([f"a {bad} dog"])


def test_a_caption_of_invisible_marks_is_empty() -> None:
    with pytest.raises(RefusedError, match="empty-caption"):
        fold_captions(["\u200b\ufeff \u00ad"])


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ("a cat", ("a cat",)),
        (["a cat", "", " a  cat "], ("a cat",)),
        ([], "no-caption"),
        ("", "no-caption"),
        (None, "no-caption"),
        ([""], "empty-caption"),
        ([" ", "\u200b"], "empty-caption"),
        (3, "wrong-type"),
        (True, "wrong-type"),
        ({"en": "a cat"}, "wrong-type"),
        ([["a cat"]], "wrong-type"),
        (["a cat", None], "wrong-type"),
        (["a cat", 1], "wrong-type"),
        (["x" * 4001], "long-caption"),
        ("x " * 2000, (" ".join("x" * 2000),)),
    ],
    ids=range(15),
)
def test_the_field_captions(tmp_path: Path, captions: object, expected: object) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps({"image_path": "a.png", "captions": captions}) + "\n")
    (entry,) = read_records(tmp_path)
    assert (entry.reason if isinstance(entry, Rejected) else entry.captions) == expected


# Text files


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".TXT"])
def test_a_text_file_is_one_caption_unless_told_otherwise(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.png").write_bytes(encoded(make_image()))
    (tmp_path / f"a{suffix}").write_text("a cat\nthat sits\r\n\n on a mat\n", newline="")
    (entry,) = read_records(tmp_path)
    assert isinstance(entry, RawSample)
    assert entry.captions == ("a cat that sits on a mat",)
    (entry,) = read_records(tmp_path, ReadOptions(caption_lines=True))
    assert isinstance(entry, RawSample)
    assert entry.captions == ("a cat", "that sits", "on a mat")


def test_text_files_in_tars_follow_the_same_rule(tmp_path: Path) -> None:
    path = tar(tmp_path, {"1.png": encoded(make_image()), "1.caption": b"a cat\nthat sits"})
    for options, captions in (
        (ReadOptions(), ("a cat that sits",)),
        (ReadOptions(caption_lines=True), ("a cat", "that sits")),
    ):
        (entry,) = read_records(path, options)
        assert isinstance(entry, RawSample)
        assert entry.captions == captions


# Captions that aren't there


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_cat-01.png", "red cat"),
        ("cats/big/red.cat (2).JPG", "red cat"),
        ("Caf\xe9 au lait.webp", "Caf\xe9 au lait"),
        ("\u732b_3.png", "\u732b"),
        ("IMG_0042.jpg", ""),
        ("DSC00017.JPG", ""),
        ("0001.png", ""),
        ("Screenshot 2024-01-02.png", ""),
        ("image of a cat.png", "image of a cat"),
        ("shard-000.tar:x/green_tree", "green tree"),
    ],
)
def test_words_of_file_names(name: str, words: str) -> None:
    assert words_of_name(name) == words


def test_images_without_captions_are_given_some(tmp_path: Path) -> None:
    for number, name in enumerate(("red_cat-01.png", "0001.png", "told.png", "blank.png")):
        (tmp_path / name).write_bytes(encoded(make_image(seed=number)))
    (tmp_path / "told.txt").write_text("a dog")
    (tmp_path / "blank.txt").write_text(" \n")

    def read(options: ReadOptions) -> dict[str, object]:
        return {e.name: e.reason if isinstance(e, Rejected) else e.captions[0] for e in read_records(tmp_path, options)}

    given = {"told.png": "a dog"}
    assert read(ReadOptions()) == given | {
        "red_cat-01.png": "no-caption", "0001.png": "no-caption", "blank.png": "empty-caption",
    }  # fmt: skip
    assert read(ReadOptions(captions_from_names=True)) == given | {
        "red_cat-01.png": "red cat", "0001.png": "no-caption", "blank.png": "blank",
    }  # fmt: skip
    assert read(ReadOptions(caption="sks")) == given | {"red_cat-01.png": "sks", "0001.png": "sks", "blank.png": "sks"}
    assert read(ReadOptions(caption="sks", captions_from_names=True)) == given | {
        "red_cat-01.png": "red cat", "0001.png": "sks", "blank.png": "blank",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (ReadOptions(root=Path("x")), "a.tar"),
        (ReadOptions(root=Path("x")), "folder"),
        (ReadOptions(caption_lines=True), "t.csv"),
        (ReadOptions(caption_lines=True), "t.jsonl"),
    ],
    ids=str,
)
def test_options_that_a_layout_has_no_use_for_are_refused(tmp_path: Path, options: ReadOptions, name: str) -> None:
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="can't be used here"):
        list(read_records(tmp_path / name, options))


# Every file accounted for


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(make_image()))
    (tmp_path / "a.txt").write_text("a cat")
    for name in ("b.svg", "c.svg", "d.SVG", "README.md", "LICENSE", ".DS_Store", "b.txt"):
        (tmp_path / name).write_text("x")
    other_files: Counter[str] = Counter()
    entries = list(read_records(tmp_path, other_files=other_files))
    assert other_files == {".svg": 3, ".md": 1, "without an ending": 1, "hidden": 1}
    assert [e.detail for e in entries if isinstance(e, Rejected)] == [
        "there is no image of the same name; b.svg beside it has a format that can't be read: convert it to PNG"
    ]
    assert kinds_text(other_files) == (
        "6 files of other kinds: 3 .svg, 1 .md, 1 hidden, 1 without an ending (.svg can't be read: convert them to PNG)"
    )
    assert kinds_text({}) == ""


def test_images_that_a_table_does_not_name_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "deep/c.tif", "notes.md", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(make_image()))
    (tmp_path / "t.csv").write_text("image,caption\n./a.png,a cat\n")
    other_files: Counter[str] = Counter()
    assert len(list(read_records(tmp_path, other_files=other_files))) == 1
    assert other_files == {"unlisted image(s)": 2, ".md": 1, "hidden": 1}


@pytest.mark.parametrize("suffix", ["tif", "tiff", "bmp", "gif", "jfif", "avif", "heic", "JPEG"])
def test_no_image_is_passed_over(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"whatever")
    (tmp_path / "a.txt").write_text("a cat")
    assert [entry.name for entry in read_records(tmp_path)] == [f"a.{suffix}"]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_splits_by_folders_as_other_tools_have_them(tmp_path: Path, table: str) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / split / "deep").mkdir(parents=True)
        (tmp_path / split / "deep" / "a.png").write_bytes(encoded(make_image()))
        row = {"file_name": "deep/a.png", "text": f"a {split} cat"}
        text = json.dumps(row) if table.endswith("jsonl") else "file_name,text\n" + ",".join(row.values())
        (tmp_path / split / table).write_text(text + "\n")
    entries = [entry for entry in read_records(tmp_path) if isinstance(entry, RawSample)]
    line = 1 if table.endswith("jsonl") else 2
    assert [(e.name, e.captions[0], e.split, e.key) for e in entries] == [
        (f"{folder}/{table}:{line}", f"a {folder} cat", split, f"{folder}/deep/a.png")
        for folder, split in (("test", "test"), ("train", "train"), ("validation", "val"))
    ]
    assert all(entry.image.read(max_bytes=10**6) for entry in entries)


def test_a_name_is_no_secret(tmp_path: Path) -> None:
    def fail() -> None:
        raise RefusedError("empty-caption", "every caption is empty")

    assert parse_record("a", fail, ReadOptions()) == Rejected("a", "empty-caption", "every caption is empty")  # type: ignore[arg-type]


# How much of a caption is read


def words(text: str) -> int:
    """Tokens for tests: words, and one more at the end."""
    return len(text.split()) + 1


LONG = "A red cat sits. It is on a mat! Is it asleep? It is not known to us at all"


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (100, LONG),
        (20, LONG.rpartition("?")[0] + "?"),
        (13, LONG.rpartition("?")[0] + "?"),
        (12, "A red cat sits. It is on a mat!"),
        (9, "A red cat sits."),
        (4, "A red cat"),
        (2, "A"),
    ],
)
def test_a_caption_is_cut_after_a_sentence_else_after_a_word(limit: int, kept: str) -> None:
    assert cut_to(LONG, words, limit) == kept
    assert words(kept) <= limit


def test_writing_without_spaces_is_cut_anywhere() -> None:
    assert cut_to("\u732b" * 50, len, 20) == "\u732b" * 20
    assert cut_to("\u732b\u3002" + "\u72ac" * 50, len, 20) == "\u732b\u3002"
    assert cut_to("abc", lambda text: len(text) + 2, 1) == ""


def test_cut_captions_are_counted() -> None:
    limit = CaptionLimit(9, words)
    assert limit.fit([LONG, "a cat", LONG + "."]) == ["A red cat sits.", "a cat", "A red cat sits."]
    assert cut_text(limit.cut, 3, 9) == "2 of 3 captions were cut to the 9 tokens the model reads"
