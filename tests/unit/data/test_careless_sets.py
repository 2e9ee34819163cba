"""Captioned sets as careless users make and name them: nothing of theirs is touched, nothing is misread in silence."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from bitvar.data.importing import import_set
from bitvar.data.index_writing import NO_VALIDATION, build_index
from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, Rejected
from bitvar.data.samples import read_samples, require_images
from bitvar.data.validation import Summary, validate
from bitvar.data.views import image_size
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.weights.hub import EMBEDDED_MODEL

SIZE = (16, 16)


def draw(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def captioned(folder: Path, count: int = 4) -> Path:
    for i in range(count):
        draw(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a cat {i}")
    return folder


def write_rows(folder: Path, *rows: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("below", ["", "images", "made/set", "../source"])
def test_a_set_is_never_written_among_its_own_samples(tmp_path: Path, below: str) -> None:
    source = captioned(tmp_path / "source")
    draw(source / "images" / "000" / "000000.png")
    before = files(source)
    with pytest.raises(UsageError, match="whose files are the samples"):
        import_set(source, source / below, size=SIZE, max_bad_fraction=1)
    assert files(source) == before


def test_a_set_is_never_written_into_a_folder_of_other_files(tmp_path: Path) -> None:
    source, other = captioned(tmp_path / "source"), tmp_path / "other"
    draw(other / "holiday.png")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        import_set(source, other, size=SIZE)
    assert list(files(other)) == ["holiday.png"]
    with pytest.raises(UsageError, match="it is a file"):
        import_set(source, other / "holiday.png", size=SIZE)


def test_an_import_that_failed_is_made_again_in_the_same_folder(tmp_path: Path) -> None:
    source = captioned(tmp_path / "source")
    (source / "0.txt").unlink()
    with pytest.raises(UsageError, match="--max-bad-fraction"):
        import_set(source, tmp_path / "set", size=SIZE)
    assert import_set(source, tmp_path / "set", size=SIZE, max_bad_fraction=0.5).accepted == 3


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ('["a cat", "a dog, sitting"]', ("a cat", "a dog, sitting")),
        (' ["a cat"] ', ("a cat",)),
        ("[sunset], [beach]", ("[sunset], [beach]",)),
        ("[1, 2]", ("[1, 2]",)),
        ('a ["quoted"] cat', ('a ["quoted"] cat',)),
        ("['a cat', 'a dog']", None),
        ('["a cat", "a dog]"', ('["a cat", "a dog]"',)),
        ('["a cat" "a dog"]', None),
    ],
)
@pytest.mark.parametrize("column", ["captions", "caption", "text"])
def test_a_list_in_a_cell_is_never_trained_on_with_its_brackets(
    tmp_path: Path, column: str, cell: str, captions: tuple[str, ...] | None
) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    (tmp_path / "t.csv").write_text(f"image,{column}\na.png,{quoted}\n")
    (entry,) = read_records(tmp_path / "t.csv")
    if captions is None:
        assert isinstance(entry, Rejected)
        assert entry.reason == "wrong-type"
        assert "is not JSON" in entry.detail
    else:
        assert isinstance(entry, RawSample)
        assert entry.captions == captions


def test_an_address_is_told_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,caption\nhttps://example.org/a.png,a cat\n")
    (entry,) = read_records(tmp_path / "t.csv")
    assert isinstance(entry, Rejected)
    assert entry.detail == "https://example.org/a.png is a URL: download the images, and name the files"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_of_another_encoding_is_told_so(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("image,caption\na.png,a cat\n".encode(encoding))
    with pytest.raises(UsageError, match="save it as UTF-8"):
        list(read_records(tmp_path / "t.csv"))


def test_lines_that_are_no_json_are_told_where() -> None:
    from bitvar.data.records import parse_object

    with pytest.raises(
        RefusedError, match="not JSON: expecting property name enclosed in double quotes at character 2"
    ):
        parse_object("{'a': 1}")


def test_a_source_of_nothing_and_one_of_nothing_good_are_told_apart() -> None:
    with pytest.raises(UsageError, match="There are no samples"):
        Summary().require(0.01)
    summary = Summary()
    summary.add(Rejected("a", "broken-line", ""))
    with pytest.raises(UsageError) as error:
        summary.require(1)
    assert "--max-bad-fraction" not in str(error.value)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_captions_of_one_image_stay_on_one_side(tmp_path: Path, images: int) -> None:
    for i in range(images):
        draw(tmp_path / "source" / f"{i}.png")
    rows = ({"image": f"{n % images}.png", "caption": f"a cat {n}"} for n in range(20))
    import_set(write_rows(tmp_path / "source", *rows), tmp_path / "set", size=SIZE, allow_duplicates=True)
    samples = read_samples(tmp_path / "set", split=None)
    by_split = {
        split: {int(s.captions[0][6:]) % images for s in samples if s.split == split} for split in ("train", "val")
    }
    assert all(by_split.values())
    assert images == 1 or not by_split["train"] & by_split["val"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_without_validation_is_told_when_it_is_made(tmp_path: Path, split: str) -> None:
    for i in range(4):
        draw(tmp_path / "source" / f"{i}.png")
    source = write_rows(
        tmp_path / "source", *({"image": f"{i}.png", "caption": "a cat", "split": split} for i in range(4))
    )
    told: list[str] = []
    import_set(source, tmp_path / "set", size=SIZE, log=told.append)
    build_index(source, tmp_path / "index", log=told.append)
    assert told.count(NO_VALIDATION) == 2


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def text(path: Path) -> None:
    path.write_text("<html>")


def small(path: Path) -> None:
    draw(path, (8, 8))


def tall(path: Path) -> None:
    draw(path, (16, 80))


def wide(path: Path) -> None:
    draw(path, (24, 16))


@pytest.mark.parametrize("spoil", [gone, empty, pipe, folder, loop, text, small, tall, wide], ids=lambda f: f.__name__)
@pytest.mark.parametrize("decoded", [False, True])
def test_headers_and_whole_images_are_refused_for_the_reasons_of_data_check(
    tmp_path: Path, spoil: Callable[[Path], None], decoded: bool
) -> None:
    for i in range(3):
        draw(tmp_path / f"{i}.png")
    rows = ({"image": f"{i}.png", "caption": "a cat", "h_div_w": 1, "split": "train"} for i in range(3))
    write_rows(tmp_path, *rows)
    spoil(tmp_path / "1.png")
    entries = validate(read_records(tmp_path), lambda image: None, limits=ImageLimits())
    (refusal,) = (entry for entry in entries if isinstance(entry, Rejected))
    with pytest.raises(UsageError) as error:
        require_images(read_samples(tmp_path, split="train"), SIZE, decoded=decoded)
    assert f"{refusal.reason}: {refusal.detail}" in str(error.value)
    if spoil is not wide:  # what a tokenizer's folder is read with has no claim to compare with
        with pytest.raises(RefusedError) as refused:
            image_size(tmp_path / "1.png", ImageLimits())
        assert (refused.value.reason, refused.value.detail) == (refusal.reason, refusal.detail)


def write_tar(path: Path, mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w", count: int = 3) -> Path:
    draw(path.with_name("x.png"))
    with tarfile.open(path, mode) as archive:
        for i in range(count):
            for suffix, data in (("png", path.with_name("x.png").read_bytes()), ("txt", b"a cat")):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("mode", "kind"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_a_compressed_tar_is_told_to_be_one(tmp_path: Path, mode: Literal["w:gz", "w:bz2", "w:xz"], kind: str) -> None:
    (entry,) = read_records(write_tar(tmp_path / "a.tar", mode))
    assert isinstance(entry, Rejected)
    assert f"compressed with {kind}" in entry.detail


@pytest.mark.parametrize("at", [513, 1200, 1600, 2049, 2500, 5000])
def test_a_tar_that_is_cut_off_never_passes_for_a_whole_one(tmp_path: Path, at: int) -> None:
    path = write_tar(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:at])
    entries = validate(read_records(path), lambda image: None, limits=ImageLimits())
    assert any(isinstance(entry, Rejected) for entry in entries)


def test_captions_are_counted_by_the_encoders_that_training_knows_by_name(tmp_path: Path) -> None:
    from bitvar.cli.caption_tokens import LongCaptions

    for name in ("icons", str(EMBEDDED_MODEL), str(EMBEDDED_MODEL / "text_encoder")):
        long = LongCaptions.open(name, 8)
        long.add(["a cat", "a cat " * 20])
        assert (long.seen, long.long) == (2, 1)
    with pytest.raises(UsageError, match="no such folder"):
        LongCaptions.open(str(tmp_path / "nowhere"), 8)
