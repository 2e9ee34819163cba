"""Tables of samples: a broken row is refused by its number, and harms no other."""

from pathlib import Path

import pytest

from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, ReadOptions
from bitvar.errors import UsageError
from tests.support.captioned import encoded, make_image, outcome


def read(path: Path, options: ReadOptions | None = None) -> tuple[dict[int, tuple[str, ...]], dict[int, str]]:
    """Captions by line, and the reason of every refused line."""
    good, refused = {}, {}
    for entry in read_records(path, options or ReadOptions()):
        number = int(entry.name.rpartition(":")[2])
        if isinstance(entry, RawSample):
            good[number] = entry.captions
        else:
            assert entry.detail
            refused[number] = entry.reason
    return good, refused


HEAD = "image_path,caption\n"


@pytest.mark.parametrize(
    ("text", "good", "refused"),
    [
        ("a.png,a red cat, sitting on a mat\nb.png,a dog\n", {3: "a dog"}, {2: "broken-line"}),
        ("a.png,a cat,\nb.png,a dog\n", {3: "a dog"}, {2: "broken-line"}),
        ("a.png\nb.png,a dog\n", {3: "a dog"}, {2: "broken-line"}),
        ('a.png,"a red cat\nb.png,a dog\nc.png,a fish\n', {3: "a dog", 4: "a fish"}, {2: "broken-line"}),
        ('a.png,"a red cat\nb.png,"a dog, sitting"\nc.png,a fish\n', {3: "a dog, sitting", 4: "a fish"},
         {2: "broken-line"}),
        ('a.png,"a red cat\nb.png,a dog"\nc.png,a fish\n', {3: 'a dog"', 4: "a fish"}, {2: "broken-line"}),
        ('b.png,a dog\na.png,"a red cat', {2: "a dog"}, {3: "broken-line"}),
        ('a.png,"a\nb.png,"b\nc.png,a fish\n', {4: "a fish"}, {2: "broken-line", 3: "broken-line"}),
        ('a.png,"a cat"s toy"\nb.png,a dog\n', {3: "a dog"}, {2: "broken-line"}),
        ('a.png,"a cat\non a mat, asleep"\nb.png,a dog\n', {2: "a cat on a mat, asleep", 4: "a dog"}, {}),
        ('a.png,"a ""red"" cat"\nb.png,a 5" disk\n', {2: 'a "red" cat', 3: 'a 5" disk'}, {}),
        ('a.png, "a cat, asleep"\n', {2: "a cat, asleep"}, {}),
        ("a.png,a\0cat\nb.png,a dog\n", {3: "a dog"}, {2: "broken-line"}),
        ("\na.png,a cat\n\n\nb.png,a dog", {3: "a cat", 6: "a dog"}, {}),
        (",a cat\nb.png,a dog\n", {3: "a dog"}, {2: "missing-field"}),
        ("a.png,\nb.png,a dog\n", {3: "a dog"}, {2: "empty-caption"}),
        ("a.png," + "x" * 200_000 + "\nb.png,a dog\n", {3: "a dog"}, {2: "broken-line"}),
        ('a.png,"' + "x\n" * 400 + "b.png,a dog\n", {402: "a dog"}, None),
    ],
    ids=range(18),
)  # fmt: skip
def test_broken_rows_are_refused_by_number_and_harm_no_other(
    tmp_path: Path, text: str, good: dict[int, str], refused: dict[int, str] | None
) -> None:
    (tmp_path / "t.csv").write_text(HEAD + text, newline="")
    found, reasons = read(tmp_path / "t.csv")
    assert found == {number: (caption,) for number, caption in good.items()}
    assert set(reasons.values()) == {"broken-line"} if refused is None else reasons == refused


@pytest.mark.parametrize(
    ("head", "text", "good"),
    [
        ("image,caption", 'one,"a red cat\ntwo,a dog"\nthree,a fish\n', {3: 'a dog"', 4: "a fish"}),
        ("image,caption", 'one.dat,"a red cat\ntwo.dat,a dog"\nthree.dat,a fish\n', {3: 'a dog"', 4: "a fish"}),
        ("caption,image", '"a red cat,a.png\na dog,b.png\na fish,c.png"\n', {3: "a dog", 4: "a fish"}),
        ("caption,image,split", '"a red cat,a.png,val\na dog,b.png,"val"\na fish,c.png,\n', {3: "a dog", 4: "a fish"}),
    ],
    ids=range(4),
)
def test_rows_are_known_whatever_their_images_are_called(
    tmp_path: Path, head: str, text: str, good: dict[int, str]
) -> None:
    (tmp_path / "t.csv").write_text(f"{head}\n{text}")
    assert read(tmp_path / "t.csv") == ({n: (caption,) for n, caption in good.items()}, {2: "broken-line"})


def test_a_text_of_several_lines_may_look_a_little_like_a_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HEAD + 'a.png,"a cat\nasleep, on a mat\n\nby a.png"\nb.png,a dog\n')
    assert read(tmp_path / "t.csv") == ({2: ("a cat asleep, on a mat by a.png",), 6: ("a dog",)}, {})


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends_of_spreadsheets(tmp_path: Path, encoding: str, ending: str) -> None:
    text = ending.join(("Image_Path ;Caption", "a.png;caf\xe9, closed", '"b.png";"two\xa0lines"', ""))
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read(tmp_path / "t.csv") == ({2: ("caf\xe9, closed",), 3: ("two lines",)}, {})


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("t.csv", "Image_Path ,Caption", "a.png,a cat"),
        ("t.csv", " FILE NAME,Text", "a.png,a cat"),
        ("t.csv", "file-name;TEXT", "a.png;a cat"),
        ("t.csv", "path\tcaption", "a.png\ta cat"),
        ("t.csv", "sep=;\npath;caption", "a.png;a cat"),
        ("t.csv", "id|image|prompt", "1|a.png|a cat"),
        ("t.tsv", "image\tcaption", "a.png\ta cat"),
        ("t.tsv", "image,caption", "a.png,a cat"),
        ("t.csv", "image,caption,,", "a.png,a cat,,"),
        ("t.csv", "notes,notes,image,caption", "x,y,a.png,a cat"),
    ],
    ids=range(10),
)
def test_headers_as_people_write_them(tmp_path: Path, name: str, header: str, row: str) -> None:
    (tmp_path / name).write_text(f"{header}\n{row}\n")
    assert list(read(tmp_path / name)[0].values()) == [("a cat",)]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("image,caption,Caption", "'caption' twice"),
        ("image,image,caption", "'image' twice"),
        ("image,caption,split,split", "'split' twice"),
        ("image,colour", "no caption column"),
        ("name,caption", "no image column"),
        ("", "no image column"),
    ],
)
def test_headers_that_say_too_little_or_too_much(tmp_path: Path, header: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\na.png,a,b,c\n")
    with pytest.raises(UsageError, match=words):
        list(read_records(tmp_path / "t.csv"))


def test_bytes_that_are_no_text_cost_their_own_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEAD.encode() + b"a.png,caf\xe9\nb.png,a dog\nc.png,\xed\xa0\x80\n")
    assert read(tmp_path / "t.csv") == ({3: ("a dog",)}, {2: "not-utf8", 4: "not-utf8"})
    (tmp_path / "t.csv").write_bytes((HEAD + "a.png,a cat\n").encode("utf-16") + b"\x00\xd8\x00")
    assert list(read_records(tmp_path / "t.csv"))[-1].reason == "not-utf8"  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_open_quotes_take_no_time(tmp_path: Path, count: int) -> None:
    rows = "".join(f'{i}.png,"never closed\n' for i in range(count))
    (tmp_path / "t.csv").write_text(HEAD + rows + "b.png,a dog\n")
    good, refused = read(tmp_path / "t.csv")
    assert good == {count + 2: ("a dog",)}
    assert len(refused) == count


def test_a_table_without_captions_is_given_some(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image\nred_cat-01.png\n0001.png\n")
    options = ReadOptions(caption="in my style", captions_from_names=True)
    assert read(tmp_path / "t.csv", options) == ({2: ("red cat",), 3: ("in my style",)}, {})


def test_rows_are_opened_like_any_samples(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(encoded(make_image()))
    (tmp_path / "t.csv").write_text(HEAD + "a.png,a cat, sitting\nb.png,a dog\nc.png,a fish\n")
    assert outcome(tmp_path / "t.csv") == (["t.csv:3"], {"t.csv:2": "broken-line", "t.csv:4": "missing-image"})
