"""Data in: every layout is read alike, every bad sample is named with its reason, and nothing else is lost."""

import json
import os
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from bitvar.data.importing import import_set
from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, ReadOptions, Rejected
from bitvar.data.samples import load_images, read_samples
from bitvar.data.validation import Accepted, SeenSet, Summary, quantiles
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, Location, RefusedError, decode_image, fit_image, open_image
from bitvar.official_schedules import nearest_ratio, ratio_names
from tests.support.captioned import (
    BAD_IMAGES,
    BAD_LINES,
    LIMITS,
    bomb,
    encoded,
    lines,
    make_image,
    outcome,
    row,
    sidecars,
    table,
    tar,
)


def names(source: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(e.name, e.captions) for e in read_records(source) if isinstance(e, RawSample)]


# Layouts


def test_images_with_sidecars(tmp_path: Path) -> None:
    folder = sidecars(tmp_path / "set")
    (folder / ".hidden.png").write_bytes(b"")
    assert names(folder) == [("a.png", ("a cat a small cat a cat",)), ("deep/b.JPG", ("a dog that sits", "a dog"))]
    by_lines = [e.captions for e in read_records(folder, ReadOptions(caption_lines=True)) if isinstance(e, RawSample)]
    assert by_lines == [("a cat", "a small cat"), ("a dog that sits", "a dog")]
    assert outcome(folder) == (["a.png", "deep/b.JPG"], {})


@pytest.mark.parametrize("name", ["set.csv", "set.tsv"])
def test_tables(tmp_path: Path, name: str) -> None:
    path = table(tmp_path / "set", name)
    entries = [e for e in read_records(path) if isinstance(e, RawSample)]
    assert [(e.name, e.captions, e.split) for e in entries] == [
        (f"{name}:2", ("a cat, sitting",), "val"),
        (f"{name}:3", ("a dog",), None),
    ]
    assert outcome(path)[1] == {}


def test_official_json_lines(tmp_path: Path) -> None:
    path = lines(tmp_path / "set")
    entries = [e for e in read_records(path) if isinstance(e, RawSample)]
    assert [(e.captions, e.ratio) for e in entries] == [(("a long cat", "a cat"), 0.75), (("a dog",), 0.75)]
    assert [e.name for e in entries] == [f"{path.name}:1", f"{path.name}:2"]
    assert outcome(path)[1] == {}


def test_the_count_in_the_name_is_checked_and_not_trusted(tmp_path: Path) -> None:
    path = lines(tmp_path / "set", "1.000_000000007.jsonl")
    good, refused = outcome(path)
    assert len(good) == 2
    assert refused == {path.name: "wrong-count"}


def test_a_wrong_ratio_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "set")
    path.write_text(path.read_text().replace("0.75,", "1.5,", 1))
    assert outcome(path)[1] == {f"{path.name}:1": "wrong-ratio"}


def test_webdataset_tars_are_read_in_place(tmp_path: Path) -> None:
    path = tar(tmp_path)
    entries = [e for e in read_records(path) if isinstance(e, RawSample)]
    assert [(e.name, e.captions) for e in entries] == [
        ("shard-000.tar:x/1", ("a cat",)),
        ("shard-000.tar:x/2", ("a dog a hound",)),
    ]
    by_lines = [e.captions for e in read_records(path, ReadOptions(caption_lines=True)) if isinstance(e, RawSample)]
    assert by_lines[1] == ("a dog", "a hound")
    assert entries[1].image.read(max_bytes=10**6) == encoded(make_image(seed=2), "JPEG")
    assert outcome(path)[1] == {}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [sidecars, table, lines, tar])
def test_a_folder_is_read_by_what_it_holds(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    make(tmp_path / "set")
    assert len(names(tmp_path / "set")) == 2


def test_a_folder_of_two_layouts_is_refused(tmp_path: Path) -> None:
    folder = table(tmp_path / "set").parent
    (folder / "more.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"\.csv and \.jsonl"):
        read_records(folder)


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    (tmp_path / "bad.csv").write_text("name,colour\n")
    (tmp_path / "nothing.csv").write_text("")
    for source, words in (("nowhere", "There is no"), ("a.xlsx", "as a captioned set"), ("bad.csv", "no image column")):
        with pytest.raises(UsageError, match=words):
            list(read_records(tmp_path / source))
    with pytest.raises(UsageError, match="empty"):
        list(read_records(tmp_path / "nothing.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        list(read_records(tmp_path / "empty"))


# Bad samples


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines_are_refused_by_reason(tmp_path: Path, name: str) -> None:
    reason, line = BAD_LINES[name]
    (tmp_path / "p.png").write_bytes(encoded(make_image()))
    (tmp_path / "q.png").write_bytes(encoded(make_image(seed=5)))
    (tmp_path / "s.jsonl").write_bytes(line + b"\n" + row(image_path="q.png") + b"\n")
    assert outcome(tmp_path) == (["s.jsonl:2"], {"s.jsonl:1": reason})


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_by_reason(tmp_path: Path, name: str) -> None:
    reason, data = BAD_IMAGES[name]
    (tmp_path / "p.png").write_bytes(data)
    (tmp_path / "p.txt").write_text("an image")
    assert outcome(tmp_path) == ([], {"p.png": reason})


def test_bad_sidecars(tmp_path: Path) -> None:
    for stem in ("alone", "twice", "latin"):
        (tmp_path / f"{stem}.png").write_bytes(encoded(make_image(seed=len(stem))))
    (tmp_path / "twice.webp").write_bytes(encoded(make_image(seed=9), "WEBP"))
    (tmp_path / "twice.txt").write_text("a cat")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "orphan.txt").write_text("a cat")
    good, refused = outcome(tmp_path)
    assert good == ["twice.png"]
    assert refused == {
        "alone.png": "no-caption", "twice.webp": "duplicate", "latin.png": "not-utf8", "orphan.txt": "missing-image",
    }  # fmt: skip


def test_bad_tars(tmp_path: Path) -> None:
    members = {
        "1.txt": b"no image", "2.png": encoded(make_image()), "3.png": encoded(make_image(seed=3)), "3.json": b"[]",
        "../4.png": encoded(make_image(seed=4)), "../4.txt": b"a cat",
    }  # fmt: skip
    path = tar(tmp_path, members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("5.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    good, refused = outcome(path)
    assert good == ["shard-000.tar:../4"]  # a name is only a name: nothing is unpacked
    assert refused == {
        "shard-000.tar:1": "missing-image", "shard-000.tar:2": "no-caption", "shard-000.tar:3": "broken-line",
        "shard-000.tar:5.png": "bad-member",
    }  # fmt: skip
    path.write_bytes(path.read_bytes()[:3000])
    assert set(outcome(path)[1].values()) & {"broken-tar", "broken-image"}
    path.write_bytes(b"\x1f\x8b not a tar" * 100)
    assert outcome(path) == ([], {"shard-000.tar": "broken-tar"})


# Sixty lines, each malformed in a way of its own

_GOOD = None
"""What is expected of a line that is fine after all."""

SIXTY_LINES: dict[str, tuple[str | None, bytes]] = {
    # encoding
    "UTF-16": ("not-utf8", row(caption="cat").decode().encode("utf-16").replace(b"\n", b"")),
    "latin-1": ("not-utf8", '{"image_path": "p.png", "caption": "caf\xe9"}'.encode("latin-1")),
    "overlong UTF-8": ("not-utf8", row(caption="@").replace(b"@", b"\xc0\xaf")),
    "a surrogate in UTF-8": ("not-utf8", row(caption="@").replace(b"@", b"\xed\xa0\x80")),
    "half a character": ("not-utf8", row()[:-2] + b"\xf0\x9f"),
    "byte order mark": (_GOOD, b"\xef\xbb\xbf" + row()),
    "two byte order marks": ("broken-line", b"\xef\xbb\xbf\xef\xbb\xbf" + row()),
    "zero bytes only": ("broken-line", bytes(64)),
    "a zero byte in a text": ("broken-line", row(caption="@").replace(b"@", b"\0")),
    "a zero byte after": ("broken-line", row() + b"\0"),
    "carriage return": (_GOOD, row() + b"\r"),
    "two rows by carriage return": ("broken-line", row() + b"\r" + row()),
    "no-break space only": ("broken-line", "\xa0".encode()),
    # JSON
    "bare word": ("broken-line", b"cat"),
    "null": ("broken-line", b"null"),
    "a number": ("broken-line", b"7"),
    "a text": ("broken-line", b'"p.png"'),
    "an array": ("broken-line", b'["p.png", "a cat"]'),
    "an empty array": ("broken-line", b"[]"),
    "an empty object": ("missing-field", b"{}"),
    "cut in a text": ("broken-line", row()[:-5]),
    "cut before the brace": ("broken-line", row()[:-1]),
    "two objects": ("broken-line", row() + row()),
    "a comma after": ("broken-line", row() + b","),
    "a comma before the brace": ("broken-line", row()[:-1] + b",}"),
    "single quotes": ("broken-line", row().replace(b'"', b"'")),
    "a comment": ("broken-line", b"// " + row()),
    "CSV": ("broken-line", b"p.png,a cat"),
    "deep arrays": ("broken-line", b"[" * 100_000),
    "deep objects": ("broken-line", b'{"a":' * 100_000),
    "a deep label": ("broken-line", row()[:-1] + b', "label": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a deep caption": ("wrong-type", row(caption="@").replace(b'"@"', b"[" * 900 + b"]" * 900)),
    "a caption twice": ("broken-line", row()[:-1] + b', "caption": "a dog"}'),
    "a bad escape": ("broken-line", row(caption="@").replace(b"@", rb"\x41")),
    "a number of 5,000 digits": ("broken-line", row()[:-1] + b', "label": ' + b"9" * 5000 + b"}"),
    "2 MB": ("broken-line", row(label="x" * (2 << 20))),
    # the image's path
    "path null": ("missing-field", row(image_path=None)),
    "path empty": ("missing-field", row(image_path="")),
    "path true": ("wrong-type", row(image_path=True)),
    "path a list": ("wrong-type", row(image_path=["p.png"])),
    "path with a lone surrogate": ("wrong-type", row(image_path="@").replace(b"@", rb"\ud800.png")),
    "path with a zero byte": ("wrong-type", row(image_path="p.png\0.txt")),
    "path of 100,000 characters": ("unreadable-file", row(image_path="p" * 100_000)),
    "path of a folder": ("unreadable-file", row(image_path="/")),
    "path below a file": ("unreadable-file", row(image_path="q.png/p.png")),
    "path of a device": ("unreadable-file", row(image_path="/dev/zero")),
    "path of a pipe": ("unreadable-file", row(image_path="pipe")),
    "path in a link that is a loop": ("unreadable-file", row(image_path="loop")),
    "path of a page": ("missing-image", row(image_path="https://example.org/p.png")),
    "path that leads out": (_GOOD, row(image_path="../out.png")),
    # captions
    "captions a number": ("wrong-type", row(captions=3)),
    "captions an object": ("wrong-type", row(captions={"en": "a cat"})),
    "captions hold null": ("wrong-type", row(captions=[None])),
    "captions a text": (_GOOD, row(captions="a cat")),
    "a caption that turns the line": (_GOOD, row(caption="a \u202e cat")),
    "a caption with a lone surrogate": ("bad-caption", row(caption="@").replace(b"@", rb"\udfff")),
    # other fields
    "split that leads out": ("bad-split", row(split="../val")),
    "ratio NaN": ("wrong-type", row(h_div_w=float("nan"))),
    "ratio of 400 digits": ("wrong-type", row(h_div_w=10**400)),
    "ratio true": ("wrong-type", row(h_div_w=True)),
}


def test_there_are_sixty_and_no_two_alike() -> None:
    assert len(SIXTY_LINES) == len({line for _, line in SIXTY_LINES.values()}) == 60


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sixty lines point to."""
    folder = tmp_path_factory.mktemp("around") / "set"
    folder.mkdir()
    for number, path in enumerate(("p.png", "before.png", "after.png", "q.png", "../out.png")):
        (folder / path).write_bytes(encoded(make_image(seed=number)))
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("name", SIXTY_LINES)
def test_sixty_malformed_lines(around: Path, name: str) -> None:
    reason, line = SIXTY_LINES[name]
    source = around / "s.jsonl"
    source.write_bytes(b"\n".join((row(image_path="before.png"), line, row(image_path="after.png"))))
    good, refused = outcome(source)
    if reason is _GOOD:
        assert (good, refused) == (["s.jsonl:1", "s.jsonl:2", "s.jsonl:3"], {})
    else:
        assert (good, refused) == (["s.jsonl:1", "s.jsonl:3"], {"s.jsonl:2": reason})


def test_joiners_that_writing_needs_are_printable(tmp_path: Path) -> None:
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467 a family", "\u0645\u06cc\u200c\u062f\u0648"
    (tmp_path / "a.png").write_bytes(encoded(make_image()))
    (tmp_path / "a.txt").write_text(f"\ufeff{family}\n{persian}\n", encoding="utf-8")
    assert names(tmp_path) == [("a.png", (f"{family} {persian}",))]


def test_sidecars_that_never_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "set" / f"{name}.png").write_bytes(encoded(make_image(seed=ord(name))))
    os.mkfifo(tmp_path / "set" / "a.txt")
    (tmp_path / "set" / "b.txt").symlink_to("nowhere")
    (tmp_path / "set" / "c.txt").write_text("a cat " * 200_000)
    (tmp_path / "set" / "more").symlink_to(tmp_path)
    assert outcome(tmp_path / "set") == (
        [], {"a.png": "unreadable-file", "b.png": "unreadable-file", "c.png": "broken-line", "more": "unreadable-file"}
    )  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sidecars(tmp_path / "set")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert outcome(folder) == (["a.png"], {"deep": "unreadable-file"})


def test_the_same_image_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(encoded(make_image()))
    (tmp_path / "x").mkdir()
    (tmp_path / "s.jsonl").write_bytes(row() + b"\n" + row(image_path="./x/../p.png"))
    assert outcome(tmp_path) == (["s.jsonl:1"], {"s.jsonl:2": "duplicate"})


def test_seen_texts_are_known_again() -> None:
    seen = SeenSet()
    texts = [f"image {i}" for i in range(20_000)] + ["\udcff"]
    assert all(seen.add(text) for text in texts)
    assert not any(seen.add(text) for text in texts)


def test_of_a_thousand_samples_exactly_the_good_ones_pass(tmp_path: Path) -> None:
    bad = [("line", name) for name in BAD_LINES] + [("image", name) for name in BAD_IMAGES]
    order = [("good", "")] * 800 + [bad[i % len(bad)] for i in range(200)]
    random.Random(0).shuffle(order)
    rows, expected = [], {}
    for number, (kind, name) in enumerate(order, start=1):
        data = encoded(make_image(seed=number)) if kind != "image" else BAD_IMAGES[name][1]
        (tmp_path / f"{number}.png").write_bytes(data)
        line = row(image_path=f"{number}.png", caption=f"image {number}")
        if kind == "line":
            line = BAD_LINES[name][1].replace(b'"p.png"', f'"{number}.png"'.encode())
        rows.append(line)
        if kind != "good":
            expected[f"s.jsonl:{number}"] = (BAD_LINES if kind == "line" else BAD_IMAGES)[name][0]
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    assert len(set(expected.values())) >= 18
    good, refused = outcome(tmp_path)
    assert good == [f"s.jsonl:{n}" for n, (kind, _) in enumerate(order, start=1) if kind == "good"]
    assert refused == expected


def test_a_bomb_costs_no_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        with pytest.raises(RefusedError, match="too-many-pixels"):
            open_image(bomb(), ImageLimits())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@given(st.binary(max_size=64), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "WEBP"]))
@settings(max_examples=300, deadline=None)
def test_mutated_images_decode_or_are_refused(noise: bytes, where: int, kind: str) -> None:
    data = encoded(make_image(), kind)
    mutated = data[:where] + noise + data[where + len(noise) :]
    try:
        image = decode_image(mutated, LIMITS)
    except RefusedError as error:
        assert error.reason
    else:
        assert image.mode == "RGB"


# Images


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    base = make_image().convert("RGB").resize((40, 30))
    grey = np.asarray(base.convert("L"))
    if mode == "I;16":
        image, kind = Image.fromarray(grey.astype(np.uint16) * 257), "PNG"
    else:
        image, kind = base.convert(mode), "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    decoded = decode_image(encoded(image, kind), LIMITS)
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))
    if mode == "I;16":
        assert np.abs(np.asarray(decoded)[..., 0].astype(int) - grey).max() <= 1


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 15, 31), fill=(255, 0, 0, 255))
    decoded = decode_image(encoded(image), LIMITS)
    assert decoded.getpixel((3, 3)) == (255, 0, 0)
    assert decoded.getpixel((30, 3)) == (255, 255, 255)


def test_the_orientation_tag_turns_the_image() -> None:
    image = Image.new("RGB", (60, 30), "blue")
    ImageDraw.Draw(image).rectangle((0, 0, 29, 29), fill="red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    decoded = decode_image(encoded(image, "JPEG", exif=exif, quality=95), LIMITS)
    assert decoded.size == (30, 60)
    top, bottom = decoded.getpixel((15, 5)), decoded.getpixel((15, 55))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200
    assert bottom[0] < 60


def test_a_colour_profile_is_applied_and_a_broken_one_is_srgb() -> None:
    image = Image.new("RGB", (32, 32), (100, 150, 200))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, b"no profile at all"):
        decoded = decode_image(encoded(image, icc_profile=profile), LIMITS)
        assert np.abs(np.asarray(decoded).astype(int) - (100, 150, 200)).max() <= 2


@pytest.mark.parametrize("profile", ["own", "broken"])
def test_a_decoded_image_is_its_pixels_alone(profile: str) -> None:
    bytes_of = {"own": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "broken": b"no profile"}
    exif = Image.Exif()
    exif[0x010E] = "who stood where"
    data = encoded(Image.new("RGB", (64, 48), (200, 30, 40)), icc_profile=bytes_of[profile], exif=exif)
    assert not decode_image(data, LIMITS).info


def test_fitting_covers_and_cuts_around_the_middle() -> None:
    image = Image.new("RGB", (90, 30), "blue")
    ImageDraw.Draw(image).rectangle((30, 0, 59, 29), fill="red")
    fitted = fit_image(image, (20, 20))
    assert fitted.size == (20, 20)
    assert fitted.getpixel((10, 10)) == (255, 0, 0)


def test_a_part_of_a_file_is_read_in_bounds(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    assert Location(tmp_path / "f", 2, 3).read(max_bytes=5) == b"234"
    with pytest.raises(RefusedError, match="too-many-bytes"):
        Location(tmp_path / "f").read(max_bytes=5)
    with pytest.raises(RefusedError, match="broken-image"):
        Location(tmp_path / "f", 8, 5).read(max_bytes=9)


def test_nearest_ratio() -> None:
    assert nearest_ratio(1.0) == "1.0"
    assert {nearest_ratio(float(name)) for name in ratio_names()} == set(ratio_names())
    assert float(nearest_ratio(0.01)) == min(map(float, ratio_names()))


# Counting


def test_quantiles_and_fractions() -> None:
    assert quantiles(Counter()) == {}
    assert quantiles(Counter({1: 98, 5: 1, 9: 1})) == {"min": 1, "median": 1, "p99": 5, "max": 9}
    summary = Summary()
    assert summary.bad_fraction == 0
    with pytest.raises(UsageError, match="There are no samples"):
        summary.require(1.0)
    raw_sample = RawSample("a", Location(Path("a")), ("one two", "three"))
    for _ in range(3):
        summary.add(Accepted(raw_sample, (40, 30)))
    summary.add(Rejected("b", "too-small", "8x8"))
    summary.require(0.25)
    with pytest.raises(UsageError, match=r"1 of 4 samples[\s\S]*too-small 1[\s\S]*max-bad-fraction 0.25 "):
        summary.require(0.2)
    assert summary.captions == {2: 3, 1: 3}
    assert (summary.sides, summary.ratios, summary.splits) == ({30: 3}, {"0.75": 3}, {"": 3})


# Importing


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.png").write_bytes(encoded(make_image(50 + i, 60, seed=i)))
        (folder / f"{i:02d}.txt").write_text(f"image {i}")
    return folder


def test_an_imported_set_trains(own_images: Path, tmp_path: Path) -> None:
    summary = import_set(own_images, tmp_path / "set", size=(24, 16), validation=0.1)
    assert summary.accepted == 40
    train, val = (read_samples(tmp_path / "set", split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (36, 4)
    assert load_images(train).shape == (36, 3, 16, 24)
    assert {s.captions for s in train} | {s.captions for s in val} == {(f"image {i}",) for i in range(40)}
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest == {"size": [24, 16], "samples": 40, "rejected": {}}
    assert names(tmp_path / "set")[0][1] == ("image 0",)  # and can be read like any other source


def test_which_samples_validate_depends_on_names_alone(own_images: Path, tmp_path: Path) -> None:
    def validated(folder: Path) -> set[str]:
        import_set(own_images, folder, size=(16, 16), validation=0.2, max_bad_fraction=0.5)
        return {s.labels["source"] for s in read_samples(folder, split="val")}

    before = validated(tmp_path / "one")
    (own_images / "00.txt").unlink()
    after = validated(tmp_path / "two")
    assert len(before & after) >= len(before) - 1


def test_which_samples_validate_does_not_depend_on_the_lines(own_images: Path, tmp_path: Path) -> None:
    paths = [f"{i:02d}.png" for i in range(40)]

    def validated(folder: Path) -> set[str]:
        (own_images / "s.jsonl").write_bytes(b"\n".join(row(image_path=path, caption=path) for path in paths))
        import_set(own_images / "s.jsonl", folder, size=(16, 16), validation=0.2)
        return {s.captions[0] for s in read_samples(folder, split="val")}

    before = validated(tmp_path / "one")
    random.Random(0).shuffle(paths)
    assert validated(tmp_path / "two") == before
    assert len(before) == 8


def test_a_split_that_is_given_is_kept(tmp_path: Path) -> None:
    path = table(tmp_path / "set")
    import_set(path, tmp_path / "out", size=(16, 16), validation=0.0)
    assert [s.captions for s in read_samples(tmp_path / "out", split="val")] == [("a cat, sitting",)]


def test_a_bad_source_leaves_a_report_and_no_set(own_images: Path, tmp_path: Path) -> None:
    (own_images / "07.png").write_bytes(b"broken")
    with pytest.raises(UsageError, match="1 of 40 samples"):
        import_set(own_images, tmp_path / "set", size=(16, 16))
    (line,) = (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "07.png"
    assert not (tmp_path / "set" / "samples.jsonl").exists()
    summary = import_set(own_images, tmp_path / "set", size=(16, 16), max_bad_fraction=0.05)  # it starts over
    assert (summary.accepted, summary.num_rejected) == (39, 1)
    with pytest.raises(UsageError, match="already holds"):
        import_set(own_images, tmp_path / "set", size=(16, 16))


def test_one_image_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(make_image()))
    (tmp_path / "in" / "a.txt").write_text("a cat")
    with pytest.raises(UsageError, match="one usable"):
        import_set(tmp_path / "in", tmp_path / "out", size=(16, 16))
