"""The index: everything good is in it once, in its group, wherever it is moved; whatever is damaged says so."""

import json
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvar.data import index as index_module
from bitvar.data import index_writing
from bitvar.data.index import SampleIndex, is_index, read_source
from bitvar.data.index_writing import MAX_SPLITS, IndexWriter, build_index, split_rank
from bitvar.data.layouts import RawSample, Rejected, read_records
from bitvar.data.validation import Accepted, Summary, validate
from bitvar.errors import UsageError
from bitvar.imaging.open import Location, RefusedError
from bitvar.official_schedules import nearest_ratio
from tests.support.captioned import BAD_IMAGES, BAD_LINES, LIMITS, encoded, lines, make_image, row, sidecars, table, tar

SIDES = ((40, 40), (60, 40), (40, 60), (80, 40), (52, 40))


def many(folder: Path, count: int = 60, order: int | None = None) -> Path:
    """A table of images of five ratios; a third has no split."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        path = folder / f"{i:03d}.png"
        if not path.exists():
            path.write_bytes(encoded(make_image(*SIDES[i % len(SIDES)], seed=i)))
        split = {} if i % 3 else {"split": ("train", "val", "test")[i % 4 % 3]}
        rows.append(row(image_path=path.name, caption=f"image {i}", **split))
    if order is not None:
        random.Random(order).shuffle(rows)
    (folder / "s.jsonl").write_bytes(b"\n".join(rows))
    return folder / "s.jsonl"


def everything(index: SampleIndex) -> dict[str, tuple[Any, ...]]:
    """What is known of each sample, by name."""
    found = {}
    for group in index.groups:
        for i in range(group.start, group.start + group.count):
            s = index[i]
            found[s.name] = (group.split, s.captions, s.width, s.height, s.image.read(max_bytes=10**6))
    assert len(found) == len(index)
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build_index(many(folder / "set"), folder / "index", content_hash=True)
    return folder


@pytest.fixture
def indexed(original: Path, tmp_path: Path) -> Path:
    """An index with content hashes, beside its images."""
    for name in ("set", "index"):
        shutil.copytree(original / name, tmp_path / name)
    return tmp_path / "index"


# What is in it


@pytest.mark.parametrize("make", [sidecars, table, lines, tar])
def test_every_layout_comes_back(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path / "set")
    source = source.parent if make is tar else source
    summary = build_index(source, tmp_path / "index")
    found = everything(SampleIndex.open(tmp_path / "index"))
    wanted = [entry for entry in read_records(source) if isinstance(entry, RawSample)]
    assert summary.accepted == len(wanted) == len(found) == 2
    assert {(captions, data) for _, captions, _, _, data in found.values()} == {
        (entry.captions, entry.image.read(max_bytes=10**6)) for entry in wanted
    }
    assert {(width, height) for _, _, width, height, _ in found.values()} == {(40, 30)}
    if make is tar:
        assert set(found) == {"shard-000.tar:x/1", "shard-000.tar:x/2"}
        assert SampleIndex.open(tmp_path / "index").manifest.paths == 1  # not once a member
    else:
        assert set(found) == {"a.png", "deep/b.JPG"}


def test_groups_are_contiguous_and_complete(indexed: Path) -> None:
    index = SampleIndex.open(indexed)
    assert {group.split for group in index.groups} == {"train", "val", "test"}
    assert len({group.ratio for group in index.groups}) == len(SIDES)
    assert len({(group.split, group.ratio) for group in index.groups}) == len(index.groups)
    end = 0
    for group in index.groups:
        assert group.start == end
        end += group.count
        for i in range(group.start, end):
            assert nearest_ratio(index[i].height / index[i].width) == group.ratio
    assert end == len(index) == 60
    given = {f"{i:03d}.png": ("train", "val", "test")[i % 4 % 3] for i in range(0, 60, 3)}
    found = everything(index)
    assert {name: found[name][0] for name in given} == given
    assert {found[f"{i:03d}.png"][0] for i in range(60) if i % 3} <= {"train", "val"}
    with pytest.raises(IndexError, match="sample 60 of 60"):
        index[60]
    assert len(list(index)) == 60  # type: ignore[call-overload]


def test_order_changes_no_split_and_the_same_source_makes_the_same_files(tmp_path: Path) -> None:
    found = []
    for order in (None, 1, 2):
        build_index(many(tmp_path / "set", order=order), tmp_path / f"index{order}", validation=0.2)
        found.append(everything(SampleIndex.open(tmp_path / f"index{order}")))
    assert found[0] == found[1] == found[2]
    build_index(tmp_path / "set" / "s.jsonl", tmp_path / "again", validation=0.2)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "index2" / path.name).read_bytes(), path.name


def test_a_share_validates_and_at_least_one(tmp_path: Path) -> None:
    source = tmp_path / "set" / "s.jsonl"
    many(tmp_path / "set")
    every = [row(image_path=f"{i:03d}.png", caption=f"image {i}") for i in range(60)]
    lowest = min((f"{i:03d}.png" for i in range(60)), key=split_rank)

    def validated(rows: list[bytes], validation: float) -> set[str]:
        source.write_bytes(b"\n".join(rows))
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        build_index(source, tmp_path / "index", validation=validation)
        return {name for name, facts in everything(SampleIndex.open(tmp_path / "index")).items() if facts[0] == "val"}

    assert validated(every, 0.3) == {f"{i:03d}.png" for i in range(60) if split_rank(f"{i:03d}.png") < 0.3}
    assert validated(every, 1e-9) == validated(every[::-1], 1e-9) == {lowest}
    assert validated(every, 0.0) == set()
    assert validated(every[:1], 1e-9) == set()  # training needs it
    given = row(image_path="007.png", split="val")
    assert validated([*every[:7], given, *every[8:]], 1e-9) == {"007.png"}


def test_of_a_thousand_samples_exactly_the_good_ones_are_indexed(tmp_path: Path) -> None:
    bad = [("line", name) for name in BAD_LINES] + [("image", name) for name in BAD_IMAGES]
    order = [("good", "")] * 800 + [bad[i % len(bad)] for i in range(200)]
    random.Random(0).shuffle(order)
    source = tmp_path / "set"
    source.mkdir()
    rows, expected = [], {}
    for number, (kind, name) in enumerate(order, start=1):
        data = encoded(make_image(seed=number)) if kind != "image" else BAD_IMAGES[name][1]
        (source / f"{number}.png").write_bytes(data)
        line = row(image_path=f"{number}.png", caption=f"image {number}")
        rows.append(BAD_LINES[name][1].replace(b'"p.png"', f'"{number}.png"'.encode()) if kind == "line" else line)
        if kind != "good":
            expected[f"s.jsonl:{number}"] = (BAD_LINES if kind == "line" else BAD_IMAGES)[name][0]
    (source / "s.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    summary = build_index(source, tmp_path / "index", max_bad_fraction=0.2, limits=LIMITS)
    assert (summary.accepted, summary.num_rejected) == (800, 200)
    found = everything(SampleIndex.open(tmp_path / "index"))
    good = {f"{number}.png" for number, (kind, _) in enumerate(order, start=1) if kind == "good"}
    assert set(found) == good
    for name, (_, captions, _, _, data) in found.items():
        assert captions == (f"image {name.removesuffix('.png')}",)
        assert data == (source / name).read_bytes()
    refused = [json.loads(line) for line in (tmp_path / "index" / "rejected.jsonl").read_text().splitlines()]
    assert len(refused) == 200
    assert {refusal["name"]: refusal["reason"] for refusal in refused} == expected


def test_a_summary_needs_no_images(tmp_path: Path) -> None:
    source = many(tmp_path / "set")
    (tmp_path / "set" / "000.png").write_bytes(b"")
    built = build_index(source, tmp_path / "index", max_bad_fraction=0.1)
    shutil.rmtree(tmp_path / "set")
    assert SampleIndex.open(tmp_path / "index").summary() == built
    assert built.rejected == {"empty-file": 1}
    assert built.splits.total() == built.ratios.total() == built.sides.total() == 59


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    for number, stem in enumerate(("caf\udce9", "two\nlines", "\u732b")):
        (source / f"{stem}.png").write_bytes(encoded(make_image(seed=number)))
        (source / f"{stem}.txt").write_text("a cat")
    build_index(source, tmp_path / "index")
    assert set(everything(SampleIndex.open(tmp_path / "index"))) == {"caf\udce9.png", "two\nlines.png", "\u732b.png"}
    member = tar(tmp_path / "tars", {"a\nb\udcff.png": encoded(make_image()), "a\nb\udcff.txt": b"a cat"})
    build_index(member, tmp_path / "second")
    assert set(everything(SampleIndex.open(tmp_path / "second"))) == {"shard-000.tar:a\nb\udcff"}


# Where it is


def test_it_can_be_moved_with_its_images_or_told_where_they_are(tmp_path: Path) -> None:
    build_index(many(tmp_path / "here" / "set"), tmp_path / "here" / "index")
    before = everything(SampleIndex.open(tmp_path / "here" / "index"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert everything(SampleIndex.open(tmp_path / "there" / "index")) == before
    (tmp_path / "there" / "set").rename(tmp_path / "images")
    index = SampleIndex.open(tmp_path / "there" / "index", tmp_path / "images")
    assert everything(index) == before
    with pytest.raises(RefusedError, match="missing-image"):
        SampleIndex.open(tmp_path / "there" / "index")[0].image.read(max_bytes=10**6)


def test_it_can_be_copied_away_from_its_images(indexed: Path, tmp_path: Path) -> None:
    shutil.copytree(indexed, tmp_path / "far" / "away" / "index")
    assert everything(SampleIndex.open(tmp_path / "far" / "away" / "index")) == everything(SampleIndex.open(indexed))


def test_a_worker_opens_it_anew(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = SampleIndex.open(Path("index"))
    sent = pickle.dumps(index)
    assert len(sent) < 1000
    monkeypatch.chdir("/")
    assert everything(pickle.loads(sent)) == everything(index)
    (tmp_path / "set").rename(tmp_path / "moved")
    given = SampleIndex.open(indexed, tmp_path / "moved")
    assert everything(pickle.loads(pickle.dumps(given))) == everything(given)


# Making it


def test_too_many_bad_ones_leave_a_report_and_no_index(tmp_path: Path) -> None:
    source = many(tmp_path / "set")
    (tmp_path / "set" / "007.png").write_bytes(b"broken")
    said: list[str] = []
    with pytest.raises(UsageError, match="1 of 60 samples"):
        build_index(source, tmp_path / "index", log=said.append)
    report = tmp_path / "index.rejected.jsonl"
    assert {path.name for path in tmp_path.iterdir()} == {"set", report.name}
    assert json.loads(report.read_text())["name"] == "s.jsonl:8"
    assert str(report) in said[-1]
    build_index(source, tmp_path / "index", max_bad_fraction=0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "index"}


def test_one_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    source = many(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        build_index(source, tmp_path / "index", log=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_where_it_can_not_be_written(indexed: Path, tmp_path: Path) -> None:
    source = tmp_path / "set"
    (tmp_path / "empty").mkdir()
    for destination, words in ((indexed, "exists already"), (source / "s.jsonl", "inside"), (source / "x", "inside")):
        with pytest.raises(UsageError, match=words):
            build_index(source, destination)
    with pytest.raises(UsageError, match="an index already"):
        build_index(indexed, tmp_path / "other")
    with pytest.raises(UsageError, match="There is no"):
        build_index(tmp_path / "nowhere", tmp_path / "other")
    assert build_index(source, tmp_path / "empty").accepted == 60
    assert {path.name for path in tmp_path.iterdir()} == {"set", "index", "empty"}


def test_a_column_that_is_no_split_is_refused(tmp_path: Path) -> None:
    raw_sample = RawSample("a", Location(tmp_path / "a.png"), ("a cat",))
    with IndexWriter(tmp_path, tmp_path) as writer:
        for i in range(MAX_SPLITS):
            writer.append(replace(raw_sample, split=f"split{i}"), size=(40, 30))
        with pytest.raises(RefusedError, match="bad-split"):
            writer.append(replace(raw_sample, split="one more"), size=(40, 30))
        writer.append(replace(raw_sample, split="split0"), size=(30, 40))
        writer.finish(Summary())
    assert len(SampleIndex.open(tmp_path)) == MAX_SPLITS + 1


def test_spooled_records_are_sorted_into_their_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writing, "_BUFFER", 1000)
    splits, sizes, count = ("train", "val"), ((40, 30), (30, 40), (64, 64)), 5300
    with IndexWriter(tmp_path, tmp_path, content_hash=True) as writer:
        for i in range(count):
            raw_sample = RawSample("", Location(tmp_path / f"{i}.png"), (f"image {i}",), splits[i % 7 == 0])
            writer.append(raw_sample, size=sizes[i % 3], digest=i.to_bytes(32))
        writer.finish(Summary())
    index = SampleIndex.open(tmp_path)
    assert len(index) == count
    assert [(group.split, group.ratio) for group in index.groups] == [
        (split, ratio) for split in splits for ratio in ("0.75", "1.0", "1.333")
    ]
    for group in index.groups:
        samples = [index[i] for i in range(group.start, group.start + group.count)]
        numbers = [int(sample.captions[0].split()[1]) for sample in samples]
        assert numbers == sorted(numbers)
        for number, sample in zip(numbers, samples, strict=True):
            assert sample.name == f"{number}.png"
            assert sample.digest == number.to_bytes(32)
            assert group.split == splits[number % 7 == 0]
            assert group.ratio == nearest_ratio(sizes[number % 3][1] / sizes[number % 3][0])


# Damage


def test_altered_images_are_named(indexed: Path, tmp_path: Path) -> None:
    index = SampleIndex.open(indexed)
    data = index[5].image.read(max_bytes=10**6)
    assert index.verified(5, data) == data
    with pytest.raises(RefusedError, match=f"altered: {index[5].name}"):
        index.verified(5, data + b"x")
    (tmp_path / "set" / "011.png").write_bytes(encoded(make_image(60, 40, seed=99)))
    (tmp_path / "set" / "020.png").unlink()
    made = list(validate(read_source(indexed), lambda image: image.size, limits=LIMITS))
    assert {sample.name: sample.reason for sample in made if isinstance(sample, Rejected)} == {
        "011.png": "altered", "020.png": "missing-image",
    }  # fmt: skip
    assert sum(isinstance(sample, Accepted) for sample in made) == 58


def test_without_hashes_nothing_is_claimed(tmp_path: Path) -> None:
    build_index(many(tmp_path / "set"), tmp_path / "index")
    index = SampleIndex.open(tmp_path / "index")
    assert index[0].digest is None
    assert index.verified(0, b"anything") == b"anything"
    assert not (tmp_path / "index" / "digests.npy").exists()


FILES = ("records.npy", "texts.bin", "paths.bin", "path_ends.npy", "digests.npy")


@pytest.mark.parametrize("name", FILES)
def test_files_cut_short_missing_or_altered(indexed: Path, name: str) -> None:
    path = indexed / name
    data = path.read_bytes()
    SampleIndex.open(indexed).verify_files()
    path.write_bytes(data[:-1])
    with pytest.raises(UsageError, match=rf"{name}: it has [\d,]+ of"):
        SampleIndex.open(indexed)
    path.unlink()
    with pytest.raises(UsageError, match=f"{name}: it is missing"):
        SampleIndex.open(indexed)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UsageError, match=f"{name} has been altered"):
        SampleIndex.open(indexed).verify_files()
    if name.endswith(".npy"):
        path.write_bytes(b"x" * len(data))
        with pytest.raises(UsageError, match=f"damaged[\\s\\S]*{name}"):
            SampleIndex.open(indexed)
        path.write_bytes(data.replace(b"'<u", b"'>u", 1) if b"'<u" in data else data.replace(b"|V32", b"|V16", 1))
        with pytest.raises(UsageError, match=f"damaged[\\s\\S]*{name}"):
            SampleIndex.open(indexed)


@pytest.mark.parametrize("field", ["path", "text", "text_size", "width"])
def test_records_that_point_nowhere(indexed: Path, field: str) -> None:
    records = np.load(indexed / "records.npy")
    records[field] = 0 if field == "width" else 2**31
    np.save(indexed / "records.npy", records)
    with pytest.raises(UsageError, match="record 3 points out"):
        SampleIndex.open(indexed)[3]


def test_paths_that_end_nowhere(indexed: Path) -> None:
    ends = np.load(indexed / "path_ends.npy")
    ends[:] = 2**40
    np.save(indexed / "path_ends.npy", ends)
    with pytest.raises(UsageError, match=r"path \d+ points out"):
        list(SampleIndex.open(indexed).raw_samples())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2, this bitvar reads 1"),
        ({"format": "parquet"}, "belongs to something else"),
        ({"sample": 3}, "did you mean 'samples'"),
        ({"samples": 61}, "61 samples"),
        ({"samples": "many"}, "samples"),
        ({"groups": []}, "groups"),
        ({"files": {}}, "lists"),
        ({"content_hash": False}, "lists"),
    ],
    ids=str,
)
def test_other_manifests(indexed: Path, change: dict[str, Any], words: str) -> None:
    path = indexed / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=words):
        SampleIndex.open(indexed)


def test_folders_that_are_no_index(tmp_path: Path, indexed: Path) -> None:
    assert is_index(indexed)
    for folder in (tmp_path / "set", tmp_path / "nowhere"):
        assert not is_index(folder)
        with pytest.raises(UsageError, match=r"not an index[\s\S]*no index\.json"):
            SampleIndex.open(folder)
    (indexed / "index.json").write_text("{")
    assert is_index(indexed)  # a damaged one
    with pytest.raises(UsageError, match="not JSON"):
        SampleIndex.open(indexed)


def test_the_files_are_the_documented_ones(indexed: Path) -> None:
    assert {path.name for path in indexed.iterdir()} == {*FILES, "index.json", "rejected.jsonl"}
    assert index_module.RECORD.itemsize == 40


WRITE_A_MILLION = """
import pathlib, resource, sys
from bitvar.data.validation import Summary
from bitvar.data.index_writing import IndexWriter
from bitvar.data.layouts import RawSample
from bitvar.imaging.open import Location

folder = pathlib.Path(sys.argv[1])
with IndexWriter(folder, folder) as writer:
    for i in range(1_000_000):
        if i == 100_000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        raw_sample = RawSample("", Location(folder / f"{i}.png"), (f"image {i}",), "val" if i % 20 == 0 else "train")
        writer.append(raw_sample, size=(640, 480) if i % 2 else (480, 640))
    writer.finish(Summary())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
OPEN_IT = """
import pathlib, resource, sys
from bitvar.data.index import SampleIndex

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index = SampleIndex.open(pathlib.Path(sys.argv[1]))
assert len(index) == 1_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_million_are_written_in_little_memory_and_open_in_less(tmp_path: Path) -> None:
    def run(code: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=600
        )
        return [float(word) for word in done.stdout.split()]

    (grown,) = run(WRITE_A_MILLION)
    assert grown < 10_000  # kB; the paths alone would take ten times as much
    (kilobytes,) = run(OPEN_IT)
    assert kilobytes < 10_000
