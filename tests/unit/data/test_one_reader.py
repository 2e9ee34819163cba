"""`data check`, `import`, `index` and training accept the same samples, and refuse the others for the same reasons.

Samples are drawn at random, good and bad, in every layout: see `drawn`.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitvar.data.captions import CaptionChoice
from bitvar.data.importing import import_set
from bitvar.data.index import SampleIndex
from bitvar.data.index_writing import build_index
from bitvar.data.layouts import read_records
from bitvar.data.records import Rejected
from bitvar.data.samples import load_image, load_images, read_samples, read_set, require_images
from bitvar.data.validation import Accepted, validate
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.streaming import BadSamples, IndexData
from tests.support.captioned import BAD_IMAGES, BAD_LINES, encoded, make_image, row, tar
from tests.support.tiny import SCHEDULES, tiny_text_encoder, tiny_tokenizer

LIMITS = ImageLimits()
IMAGES = {name: data for name, (reason, data) in BAD_IMAGES.items() if reason != "too-many-bytes"}
"""Bad ones under the limits that training has."""

GOOD_CAPTIONS = (
    "a cat",
    ["a cat", "a small cat"],
    ["", "a dog"],
    "a\u200b\u00ad bird",
    "a flag \U0001f3f4\U000e0067",
    "x " * 900,
)
BAD_CAPTIONS = ([], [""], None, 3, ["a", 1], [["a"]], "a \x07 bell", "x" * 5000, {"en": "a cat"})


def drawn(folder: Path, count: int, seed: int) -> dict[str, Path]:
    """A source of each layout with `count` samples in all, half of them good."""
    draw = random.Random(seed)
    share = count // 4
    sources = {"lines": folder / "lines", "table": folder / "table", "sidecars": folder / "sidecars"}
    for source in sources.values():
        source.mkdir(parents=True)
    rows, table, members = [], [b"file_name,text,split"], dict[str, bytes]()
    for number in range(share):
        image = f"{number:04d}.png"
        for name, source in sources.items():
            kind = draw.choice(("good", "good", "image", "caption", "line"))
            data = (
                IMAGES[draw.choice(list(IMAGES))] if kind == "image" else encoded(make_image(40, 30, seed=number % 50))
            )
            (source / image).write_bytes(data)
            captions = draw.choice(BAD_CAPTIONS if kind == "caption" else GOOD_CAPTIONS)
            split = draw.choice((None, "", "train", "val", "a b" if kind == "line" else "test"))
            if name == "lines":
                line = json.dumps({"image_path": image, "captions": captions, "split": split}).encode()
                bad = draw.choice(list(BAD_LINES.values()))[1].replace(b'"p.png"', f'"{image}"'.encode())
                twice = row(image_path=f"./{max(0, number - draw.randrange(3)):04d}.png")
                rows.append(line if kind != "line" else draw.choice((bad, twice)))
            elif name == "table":
                text = captions if isinstance(captions, str) else "a, b"
                good = f'{image},"{text}",{split or ""}'
                bad_rows = (
                    f"{image},a cat, sitting,",
                    f'{image},"never closed',
                    image,
                    f"{image},a\0cat,",
                    f"gone{image},a,",
                )
                table.append((draw.choice(bad_rows) if kind == "line" else good).encode())
            elif kind != "line":
                text = "\n".join(map(str, captions)) if isinstance(captions, list) else str(captions or "")
                (source / f"{number:04d}.txt").write_bytes(text.encode())
        kind = draw.choice(("good", "good", "image", "caption"))
        members[image] = IMAGES[draw.choice(list(IMAGES))] if kind == "image" else encoded(make_image(seed=number % 50))
        members[f"{number:04d}.json"] = json.dumps(
            {"captions": draw.choice(BAD_CAPTIONS if kind == "caption" else GOOD_CAPTIONS)}
        ).encode()
    (sources["lines"] / "samples.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    (sources["table"] / "t.csv").write_bytes(b"\n".join(table) + b"\n")
    return sources | {"tar": tar(folder / "tar", members)}


def checked(source: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, str]]]:
    """Captions of the good samples; reason and detail of the others."""
    good, refused = {}, {}
    for sample in validate(read_records(source), lambda image: image.size, limits=LIMITS):
        if isinstance(sample, Accepted):
            good[sample.raw_sample.name] = sample.raw_sample.captions
        else:
            refused[sample.name] = (sample.reason, sample.detail)
    return good, refused


def reasons(path: Path) -> dict[str, tuple[str, str]]:
    refusals = (Rejected(**json.loads(line)) for line in path.read_text().splitlines())
    return {refusal.name: (refusal.reason, refusal.detail) for refusal in refusals}


def agree(folder: Path, count: int, seed: int) -> None:
    sources = drawn(folder, count, seed)
    total, kinds = 0, set[str]()
    for name, source in sources.items():
        good, refused = checked(source)
        total += len(good) + len(refused)
        kinds |= {reason for reason, _ in refused.values()}
        assert good, name

        import_set(source, folder / f"{name}-set", size=(16, 16), max_bad_fraction=1.0)
        rows = [json.loads(line) for line in (folder / f"{name}-set" / "samples.jsonl").read_text().splitlines()]
        assert {each["source"]: tuple(each["captions"]) for each in rows} == good
        assert reasons(folder / f"{name}-set" / "rejected.jsonl") == refused

        build_index(source, folder / f"{name}-index", max_bad_fraction=1.0)
        index = SampleIndex.open(folder / f"{name}-index")
        assert sorted(index[i].captions for i in range(len(index))) == sorted(good.values())
        assert reasons(folder / f"{name}-index" / "rejected.jsonl") == refused

        trained_on_an_index(folder, index)
        assert {sample.labels["source"] for sample in read_samples(folder / f"{name}-set", split=None)} == set(good)
    assert total >= count
    assert len(kinds) >= 12
    trained_on_lines(sources["lines"])


def trained_on_an_index(folder: Path, index: SampleIndex) -> None:
    """Training reads every sample of the index, and replaces none."""
    encoder = tiny_text_encoder(folder / "encoder")
    for split in {group.split for group in index.groups}:
        data = IndexData(
            index, split, schedules=schedules(), stride=4, tokenizer=tiny_tokenizer(), text_encoder=encoder,
            bad=BadSamples(folder / "bad.jsonl", 0.0),
        )  # fmt: skip
        micro_batches = [MicroBatch(0, bucket, torch.arange(count), 0, 0) for bucket, count in enumerate(data.counts)]
        assert not [refusal for loaded in data.read(micro_batches, CaptionChoice()) for refusal in loaded.refused]


def schedules() -> tuple:
    from bitvar.transformer import TransformerConfig

    return TransformerConfig(
        depth=1, width=16, num_heads=2, bits=4, text_width=64, max_text_tokens=16, max_scales=4,
        schedules=SCHEDULES,  # type: ignore[arg-type]
    ).all_schedules()  # fmt: skip


def trained_on_lines(folder: Path) -> None:
    """A captioned set: training refuses it by the same lines and reasons, and takes exactly the good ones."""
    good, refused = checked(folder)
    mine: dict[str, tuple[str, str]] = {}
    entries = {entry.name: entry for entry in read_set(folder)}
    for name, entry in entries.items():
        if isinstance(entry, Rejected):
            mine[name] = (entry.reason, entry.detail)
    with pytest.raises(UsageError, match=r"Line \d+ of .*samples.jsonl can't be used, nor \d+ more"):
        read_samples(folder, split="train")
    lines = (folder / "samples.jsonl").read_bytes().split(b"\n")
    sound = [line for number, line in enumerate(lines, start=1) if f"samples.jsonl:{number}" not in mine]
    numbers = [number for number in range(1, len(lines)) if f"samples.jsonl:{number}" not in mine]
    (folder / "samples.jsonl").write_bytes(b"\n".join(sound))
    loaded = []
    for number, sample in zip(numbers, read_samples(folder, split=None), strict=True):
        try:
            load_image(sample)
            loaded.append(f"samples.jsonl:{number}")
        except RefusedError as error:
            mine[f"samples.jsonl:{number}"] = (error.reason, error.detail)
    assert mine == refused
    assert loaded == list(good)


def test_everyone_accepts_the_same_samples_for_the_same_reasons(tmp_path: Path) -> None:
    agree(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_everyone_accepts_the_same_two_thousand_samples(tmp_path: Path) -> None:
    agree(tmp_path, 2000, seed=1)


# A captioned set as training reads it


def a_set(folder: Path, **changes: object) -> Path:
    """Three samples; the second has these changes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image_path": f"{i}.png", "captions": [f"a cat {i}"], "split": ("train", "train", "val")[i]} for i in range(3)
    ]
    rows[1] |= changes
    for i in range(3):
        (folder / f"{i}.png").write_bytes(encoded(make_image(32, 32, seed=i)))
    (folder / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"captions": []}, "no-caption"),
        ({"captions": [""]}, "empty-caption"),
        ({"captions": None}, "no-caption"),
        ({"captions": 3}, "wrong-type"),
        ({"captions": [["a cat"]]}, "wrong-type"),
        ({"captions": ["a \x07"]}, "bad-caption"),
        ({"captions": ["x" * 5000]}, "long-caption"),
        ({"image_path": None}, "missing-field"),
        ({"image_path": "0.png"}, "duplicate"),
        ({"split": 3}, "wrong-type"),
        ({"split": "../val"}, "bad-split"),
        ({"h_div_w": "wide"}, "wrong-type"),
    ],
    ids=str,
)
def test_a_line_that_check_refuses_stops_training(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    folder = a_set(tmp_path / "set", **changes)
    assert [refused[0] for refused in checked(folder)[1].values()] == [reason]
    for split in ("train", "val", None):
        with pytest.raises(
            UsageError, match=rf"Line 2 of .*samples.jsonl can't be used[\s\S]*{reason}[\s\S]*data check"
        ):
            read_samples(folder, split=split)


def test_a_text_where_a_list_is_expected_is_one_caption(tmp_path: Path) -> None:
    folder = a_set(tmp_path / "set", captions="a cat")
    assert [sample.captions for sample in read_samples(folder, split="train")] == [("a cat 0",), ("a cat",)]
    assert checked(folder)[0]["samples.jsonl:2"] == ("a cat",)


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (broken, "broken-image"),
        (Path.unlink, "missing-image"),
        (lambda path: path.write_bytes(b""), "empty-file"),
        (lambda path: path.write_bytes(encoded(make_image(400, 20))), "extreme-ratio"),
    ],
    ids=["broken", "missing", "empty", "ribbon"],
)
def test_an_image_that_check_refuses_stops_training_by_name(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    folder = a_set(tmp_path / "set")
    spoil(folder / "1.png")
    assert [refused[0] for refused in checked(folder)[1].values()] == [reason]
    with pytest.raises(UsageError, match=rf"1\.png \(samples.jsonl:2\)[\s\S]*{reason}[\s\S]*data check"):
        load_images(read_samples(folder, split="train"))


def test_a_wrong_ratio_stops_training_too(tmp_path: Path) -> None:
    folder = a_set(tmp_path / "set", h_div_w=2.0)
    with pytest.raises(UsageError, match="wrong-ratio"):
        load_images(read_samples(folder, split="train"))


def test_sizes_are_compared_before_anything_is_decoded(tmp_path: Path) -> None:
    folder = a_set(tmp_path / "set")
    samples = read_samples(folder, split="train")
    require_images(samples, (32, 32))
    words = (
        rf"2 of 2 images of {folder} are not 64x64[\s\S]*2 of 32x32[\s\S]*0\.png"
        rf"[\s\S]*bitvar data import {folder} NEW_FOLDER --size 64"
    )
    with pytest.raises(UsageError, match=words):
        require_images(samples, (64, 64))
    (folder / "1.png").write_bytes(encoded(make_image(64, 32)))
    with pytest.raises(UsageError, match=r"1 of 2 images[\s\S]*1 of 64x32[\s\S]*1\.png"):
        require_images(samples, (32, 32))
    with pytest.raises(UsageError, match=r"different sizes[\s\S]*1\.png is 64x32[\s\S]*0\.png is 32x32"):
        load_images(samples)
    (folder / "1.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"1\.png"):
        require_images(samples, (32, 32))


def test_splits_that_are_not_named_are_drawn_as_for_an_index(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"image_path": f"{i:02d}.png", "captions": "a cat"} for i in range(60)]
    for i in range(60):
        (folder / f"{i:02d}.png").write_bytes(encoded(make_image(32, 32, seed=i)))
    (folder / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    build_index(folder, tmp_path / "index")
    index = SampleIndex.open(tmp_path / "index")
    indexed = {
        index[i].name: group.split for group in index.groups for i in range(group.start, group.start + group.count)
    }
    said: list[str] = []
    assert {s.path.name: s.split for s in read_samples(folder, split=None, log=said.append)} == indexed
    assert "60 samples name no split" in said[0]


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    folder = a_set(tmp_path / "set", split="validation")
    with pytest.raises(UsageError, match=r"no split 'test'[\s\S]*train 1, val 1, validation 1"):
        read_samples(folder, split="test")
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match=r"no samples\.jsonl[\s\S]*bitvar data import"):
        read_samples(folder, split="train")
