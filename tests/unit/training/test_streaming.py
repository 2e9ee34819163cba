"""Training straight from an index: the right images in the right shapes, whatever the workers; bad ones reported."""

import json
import multiprocessing
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from bitvar.data.captions import CaptionChoice
from bitvar.data.index import SampleIndex
from bitvar.data.index_writing import build_index
from bitvar.data.order import SampleOrder
from bitvar.data.records import ReadOptions
from bitvar.errors import UsageError
from bitvar.training.engine.microbatch import micro_batches_of
from bitvar.training.streaming import BadSamples, IndexData
from bitvar.transformer import TransformerConfig
from tests.support.tiny import SCHEDULES, TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer

COLOURS = ("red", "green", "blue")
CONFIG = TransformerConfig(
    depth=1, width=16, num_heads=2, bits=4, text_width=TEXT_WIDTH, max_text_tokens=16, max_scales=4,
    schedules=SCHEDULES,  # type: ignore[arg-type]
)  # fmt: skip


def make_images(folder: Path, count: int = 24) -> Path:
    """Squares and images half as high, each of one colour, with two captions."""
    folder.mkdir(parents=True)
    for i in range(count):
        colour = COLOURS[i % 3]
        image = Image.new("RGB", (40, 40 if i % 4 else 20), colour)
        ImageDraw.Draw(image).point((i, 0), fill="white")
        image.save(folder / f"{i:04d}.png")
        (folder / f"{i:04d}.txt").write_text(f"a {colour} square. it is {colour}\n{colour}\n")
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(
        make_images(tmp_path / "images"), tmp_path / "index", content_hash=True, validation=0.2,
        options=ReadOptions(caption_lines=True),
    )  # fmt: skip
    return tmp_path / "index"


def data(
    index: Path, *, split: str = "train", workers: int = 0, bad: float = 0.01, channels: int = 3, **options: int
) -> IndexData:
    return IndexData(
        SampleIndex.open(index),
        split,
        schedules=CONFIG.all_schedules(),
        stride=4,
        tokenizer=tiny_tokenizer(image_channels=channels),
        text_encoder=tiny_text_encoder(index.parent),
        bad=BadSamples(index.parent / "bad.jsonl", bad),
        workers=workers,
        **options,
    )


def test_each_ratio_is_a_bucket_with_its_schedule(index: Path) -> None:
    made = data(index)
    assert sorted(zip(made.schedules, made.sizes, strict=True)) == [(0, (16, 16)), (1, (16, 8))]
    assert sum(made.counts) + sum(data(index, split="val").counts) == 24
    assert max(data(index, split="val", max_samples=1).counts) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_images_and_captions_of_their_samples(index: Path, workers: int) -> None:
    made = data(index, workers=workers)
    order = SampleOrder(made.counts, 4, 0)
    for loaded in made.read(micro_batches_of(order, range(12)), CaptionChoice()):
        width, height = made.sizes[loaded.micro_batch.bucket]
        assert loaded.images.shape == (4, 3, height, width)
        for image, caption in zip(loaded.images, loaded.captions, strict=True):
            channel = {"red": 0, "green": 1, "blue": 2}[next(c for c in COLOURS if c in caption)]
            assert image[:, height // 2, width // 2].argmax() == channel
            assert not loaded.refused


def test_a_tokenizer_with_opacity_gets_it(index: Path) -> None:
    made = data(index, channels=4)
    micro_batches = list(micro_batches_of(SampleOrder(made.counts, 4, 0), range(2)))
    for loaded in made.read(micro_batches, None):
        assert loaded.images.shape[1] == 4 and (loaded.images[:, 3] == 255).all()
    assert all(torch.isfinite(batch.features).all() for batch in made.batches(micro_batches, None))


def test_workers_change_nothing(index: Path) -> None:
    batches = []
    for workers in (0, 1, 2):
        made = data(index, workers=workers)
        micro_batches = micro_batches_of(SampleOrder(made.counts, 4, 0), range(5), micro_batch_size=2)
        batches.append(list(made.batches(micro_batches, CaptionChoice(first=0.5, cut=0.5))))
    for other in batches[1:]:
        for one, two in zip(batches[0], other, strict=True):
            assert torch.equal(one.features, two.features)
            assert torch.equal(one.condition.features, two.condition.features)
            assert torch.equal(one.micro_batch.samples, two.micro_batch.samples)


def test_captions_are_chosen_and_cut(index: Path) -> None:
    made = data(index)
    micro_batches = list(micro_batches_of(SampleOrder(made.counts, 4, 0), range(40)))
    seen = {text for loaded in made.read(micro_batches, CaptionChoice(first=0.5, cut=0.5)) for text in loaded.captions}
    assert seen == {text for c in COLOURS for text in (c, f"a {c} square.", f"a {c} square. it is {c}")}
    assert {text for loaded in made.read(micro_batches, None) for text in loaded.captions} == {
        f"a {c} square. it is {c}" for c in COLOURS
    }


def spoil(index: Path, count: int) -> set[str]:
    """Damage some of the training images in three ways, after the index was made."""
    opened = SampleIndex.open(index)
    group = max((g for g in opened.groups if g.split == "train"), key=lambda g: g.count)
    spoilt = [opened[group.start + i] for i in range(count)]
    for i, sample in enumerate(spoilt):
        path = sample.image.file
        if i % 3 == 0:
            path.unlink()
        elif i % 3 == 1:
            path.write_bytes(path.read_bytes()[:-20])
        else:
            Image.new("RGB", (40, 40), "white").save(path)
    return {sample.name for sample in spoilt}


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_went_bad_are_replaced_and_named_once(index: Path, workers: int) -> None:
    spoilt = spoil(index, 3)
    made = data(index, workers=workers, bad=1.0)
    batches = list(made.batches(micro_batches_of(SampleOrder(made.counts, 4, 0), range(40)), None))
    assert len(batches) == 40
    assert all(len(batch.features) == 4 for batch in batches)
    rows = [json.loads(line) for line in (index.parent / "bad.jsonl").read_text().splitlines()]
    assert {row["name"] for row in rows} == spoilt
    assert len(rows) == 3
    assert {row["reason"] for row in rows} == {"missing-image", "altered"}


def test_a_spent_budget_stops_the_run(index: Path) -> None:
    spoil(index, 4)
    made = data(index, bad=0.05)
    with pytest.raises(UsageError, match=r"could not be used[\s\S]*max-bad-fraction 0.05"):
        list(made.batches(micro_batches_of(SampleOrder(made.counts, 4, 0), range(200)), None))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_that_is_gone_stops_the_run_at_once(index: Path, workers: int) -> None:
    for path in (index.parent / "images").glob("*.png"):
        path.unlink()
    made = data(index, workers=workers)
    with pytest.raises(UsageError, match=r"samples in a row can't be read[\s\S]*missing-image"):
        list(made.batches(micro_batches_of(SampleOrder(made.counts, 4, 0), range(3)), None))


def test_a_split_that_is_not_there_is_named(index: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'test'[\s\S]*train, val"):
        data(index, split="test")


def test_the_index_may_move_with_its_images(index: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("images", "index"):
        shutil.move(index.parent / name, moved / name)
    made = data(moved / "index")
    assert len(list(made.read(micro_batches_of(SampleOrder(made.counts, 2, 0), range(3)), None))) == 3


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="it can't be told who sends a signal")
def test_workers_outlive_a_sigterm_that_others_send(index: Path) -> None:
    """As clusters send it to every process; the main process's own ends them. Whatever threads PyTorch starts there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_num_threads(threads)
    others = multiprocessing.active_children()
    made = data(index, workers=2)
    batches = made.read(micro_batches_of(SampleOrder(made.counts, 2, 0), range(40)), None)
    assert len([next(batches), next(batches)]) == 2  # both workers are at work
    workers = [child for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    subprocess.run(["kill", *(str(worker.pid) for worker in workers)], check=True)
    assert sum(1 for _ in batches) == 38
    for worker in workers:
        worker.terminate()
        worker.join(timeout=5)
        assert not worker.is_alive()
