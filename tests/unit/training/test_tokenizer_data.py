"""What a tokenizer run reads: folders, sets and indexes alike; channels, crops, ratios and sizes; bad files named."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from bitvar.data.index_writing import build_index
from bitvar.data.listing import ImageList, open_images
from bitvar.data.order import SampleOrder
from bitvar.data.views import View, image_size
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, RefusedError, decode_image
from bitvar.scales import nearest_in_ratio
from bitvar.training.engine.microbatch import MicroBatch, micro_batches_of
from bitvar.training.streaming import BadSamples
from bitvar.training.tokenizer.data import ImageFiles

LIMITS = ImageLimits(min_side=4)
SQUARE, LARGE, WIDE = ((1, 1), (2, 2)), ((1, 1), (2, 2), (4, 4)), ((1, 1), (1, 2))


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, format="PNG")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def ramp(height: int, width: int) -> np.ndarray:
    """Red is the column, green the row."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for i in range(20):
        size = (16, 32) if i % 4 == 0 else (24, 24)
        (images / ("more" if i % 2 else ".") / f"{i:02d}.png").write_bytes(png(ramp(*size)))
    return images


def files(source: Path, split: str = "train", *, view: View = View(), workers: int = 0, max_samples: int | None = None):  # noqa: B008
    return ImageFiles(
        open_images(source, limits=LIMITS),
        split,
        schedules=(SQUARE, WIDE, LARGE),
        stride=4,
        view=view,
        bad=BadSamples(source.parent / "bad.jsonl", 0.5),
        limits=LIMITS,
        workers=workers,
        max_samples=max_samples,
    )


# What of an image is seen


def test_the_largest_crop_lies_around_the_middle() -> None:
    seen = View().see(png(ramp(40, 80)), LIMITS, (40, 40))
    assert seen.shape == (40, 40, 3)
    assert (seen[0, 0, 0], seen[0, -1, 0]) == (20, 59)


@pytest.mark.parametrize(("draws", "corner"), [((0.0, 0.0, 0.0, 0.9), (0, 0)), ((0.0, 0.999, 0.999, 0.9), (59, 19))])
def test_random_crops_lie_anywhere(draws: tuple[float, ...], corner: tuple[int, int]) -> None:
    seen = View(smallest_crop=0.5).see(png(ramp(40, 80)), LIMITS, (20, 20), draws)
    assert tuple(np.abs(seen[0, 0, :2].astype(int) - corner) <= 1) == (True, True)
    assert np.abs(seen[-1, -1, :2].astype(int) - np.add(corner, 19)).max() <= 1


def test_a_large_jpeg_is_decoded_as_small_as_will_do() -> None:
    file = io.BytesIO()
    smooth = Image.fromarray(ramp(8, 16) * 15).resize((1600, 800), Image.Resampling.BICUBIC)
    smooth.save(file, format="JPEG", quality=95)
    limits = ImageLimits()
    assert decode_image(file.getvalue(), limits, at_least=100).size == (200, 100)
    assert decode_image(file.getvalue(), limits, at_least=101).size == (400, 200)
    view = View(smallest_crop=0.5)
    for draws in (None, (0.0, 0.3, 0.9, 0.9)):
        seen = view.see(file.getvalue(), limits, (50, 50), draws)
        exact = np.asarray(
            smooth.resize((50, 50), Image.Resampling.LANCZOS, box=view._box((1600, 800), (50, 50), draws))
        )
        assert np.abs(seen.astype(int) - exact).max() <= 6


def test_no_crop_is_enlarged_where_it_need_not_be() -> None:
    seen = View(smallest_crop=0.01).see(png(ramp(40, 40)), LIMITS, (32, 32), (0.0, 0.0, 0.0, 0.9))
    assert seen[0, -1, 0] == pytest.approx(31, abs=1)


def test_half_of_the_crops_are_mirrored() -> None:
    plain, mirrored = (View(mirrored=True).see(png(ramp(8, 8)), LIMITS, (8, 8), (0, 0, 0, d)) for d in (0.6, 0.4))
    assert np.array_equal(plain, mirrored[:, ::-1])
    assert not np.array_equal(plain, mirrored)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_come_in_one_three_or_four_channels(channels: int) -> None:
    array = np.zeros((8, 8, 4), np.uint8)
    array[..., 0], array[..., 3] = 200, 128
    seen = View(channels).see(png(array), LIMITS, (8, 8))
    assert seen.shape == (8, 8, channels)
    expected = {1: [157], 3: [227, 127, 127], 4: [227, 127, 127, 128]}[channels]
    assert np.abs(seen[4, 4].astype(int) - expected).max() <= 2


def test_an_opaque_image_has_an_opaque_fourth_channel() -> None:
    assert (View(4).see(png(ramp(8, 8)), LIMITS, (8, 8))[..., 3] == 255).all()


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 10, 6), 100, np.uint8),
        np.full((8, 10, 6), 100 * 256 + 7, np.uint16),
        np.full((8, 10, 6), 100 / 255, np.float32),
    ],
    ids=["uint8", "uint16", "floats"],
)
def test_arrays_have_any_number_of_channels(array: np.ndarray, tmp_path: Path) -> None:
    array[:4] = 0
    seen = View(6).see(npy(array), LIMITS, (5, 4))
    assert seen.shape == (4, 5, 6)
    assert seen[0].max() < 20
    assert seen[-1].min() > 90
    (tmp_path / "a.npy").write_bytes(npy(array))
    assert image_size(tmp_path / "a.npy", LIMITS) == (10, 8)


@pytest.mark.parametrize(
    ("data", "channels", "reason"),
    [
        (npy(np.zeros((8, 8, 5), np.uint8)), 6, "other-channels"),
        (png(ramp(8, 8)), 6, "other-channels"),
        (npy(np.zeros((8, 8, 17), np.uint8)), 3, "not-an-image"),
        (npy(np.full((8, 8, 2), 3.0)), 2, "not-an-image"),
        (npy(np.full((8, 8, 2), np.nan)), 2, "not-an-image"),
        (npy(np.full((8, 8, 2), -1, np.int64)), 2, "not-an-image"),
        (npy(np.array([["a"]], dtype=object)), 2, "broken-image"),
        (npy(np.zeros((8, 8, 2), np.uint8))[:-9], 2, "broken-image"),
        (npy(np.zeros((2, 8, 2), np.uint8)), 2, "too-small"),
        (b"\x93NUMPY\x01\x00\xff\xff", 2, "broken-image"),
    ],
    ids=range(10),
)
def test_what_can_not_be_seen_is_refused(data: bytes, channels: int, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        View(channels).see(data, LIMITS, (8, 8))
    assert caught.value.reason == reason


def test_sizes_are_read_as_people_see_them(tmp_path: Path) -> None:
    turned = Image.fromarray(ramp(8, 16))
    exif = turned.getexif()
    exif[0x0112] = 6
    for name in ("turned.jpg", "turned.png", "turned.webp"):
        turned.save(tmp_path / name, exif=exif)
        assert image_size(tmp_path / name, LIMITS) == (8, 16), name
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    turned.save(tmp_path / "xmp.png", pnginfo=xmp)
    assert image_size(tmp_path / "xmp.png", LIMITS) == (8, 16)
    turned.save(tmp_path / "plain.png")
    assert image_size(tmp_path / "plain.png", LIMITS) == (16, 8)


def test_the_size_of_a_plain_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(ramp(8, 16)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: data.index(b"IDAT") + 8])
    assert image_size(tmp_path / "cut.png", LIMITS) == (16, 8)


# Where images come from


def test_a_folder_is_split_by_names_and_sorted_by_ratio(folder: Path) -> None:
    source = open_images(folder, limits=LIMITS)
    assert isinstance(source, ImageList)
    groups = {(group.split, group.ratio): group.count for group in source.groups}
    assert sum(groups.values()) == 20
    assert sum(count for (split, _), count in groups.items() if split == "val") == 1
    assert {ratio for _, ratio in groups} == {"1.0", "0.5"}
    again = open_images(folder, limits=LIMITS)
    assert isinstance(again, ImageList)
    assert again.paths == source.paths


def test_a_set_and_an_index_are_read_as_well(tmp_path: Path) -> None:
    rows = []
    for i in range(6):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{i}.png").write_bytes(png(ramp(24, 24)))
        (tmp_path / "set" / f"{i}.txt").write_text("a ramp\n")
        rows.append({"image_path": f"{i}.png", "captions": ["a ramp"], "split": "val" if i == 0 else "train"})
    build_index(tmp_path / "set", tmp_path / "index", validation=0.2)
    (tmp_path / "set" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, counts in ((tmp_path / "set", (5, 5)), (tmp_path / "index", None)):
        made = files(source)
        assert made.schedules == (0, 2)
        assert counts is None or made.counts == counts
        (batch,) = made.batches([MicroBatch(0, 1, torch.tensor([0, 1]), 0, 0)])
        assert batch.images.shape == (2, 3, 16, 16)


def test_a_broken_line_of_a_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"image_path": "a.png", "captions": ["a"], "split": "train"}\nnothing\n')
    with pytest.raises(UsageError, match="Line 2 of"):
        open_images(tmp_path)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_that_can_not_be_decoded_are_refused(channels: int) -> None:
    clear = np.random.default_rng(0).integers(0, 255, (32, 32, 4), dtype=np.uint8)
    whole = png(clear)
    for data in (whole[: len(whole) // 2], whole[:60] + bytes(200) + whole[260:]):
        with pytest.raises(RefusedError, match="broken-image"):
            View(channels).see(data, LIMITS, (8, 8))


def test_bad_files_are_named_and_too_many_refused(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"nothing")
    lines: list[str] = []
    source = open_images(folder, limits=LIMITS, max_bad_fraction=0.1, log=lines.append)
    assert sum(group.count for group in source.groups) == 20
    assert [line.split(":")[0] for line in lines] == ["left out", "found 21 images"]
    assert "broken.png" in lines[0]
    with pytest.raises(UsageError, match="1 of 21 images"):
        open_images(folder, limits=LIMITS, max_bad_fraction=0.01)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no images"):
        open_images(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        open_images(tmp_path / "missing")


# Batches


def test_images_go_to_the_nearest_ratio_and_to_every_size_of_it(folder: Path) -> None:
    made = files(folder)
    shapes = {}
    for bucket in range(len(made.counts)):
        (batch,) = made.batches([MicroBatch(0, bucket, torch.tensor([0]), 0, 0)])
        shapes[made.schedules[bucket]] = tuple(batch.images.shape)
    assert shapes == {0: (1, 3, 8, 8), 1: (1, 3, 4, 8), 2: (1, 3, 16, 16)}
    assert nearest_in_ratio([(2, 2), (1, 2), (4, 4)], 0.98) == [0, 2]
    assert max(files(folder, max_samples=3).counts) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_depend_on_the_place_in_the_run_alone(folder: Path, workers: int) -> None:
    view = View(smallest_crop=0.5, mirrored=True)
    reference, other = files(folder, view=view), files(folder, view=view, workers=workers)
    order = SampleOrder(reference.counts, 4, 0)
    whole = [batch.images for batch in reference.batches(micro_batches_of(order, range(6)))]
    pieces = list(other.batches(micro_batches_of(order, range(3, 6), micro_batch_size=2)))
    for step in range(3):
        assert torch.equal(whole[3 + step], torch.cat([pieces[2 * step + i].images for i in range(2)]))


def test_a_image_that_vanished_is_replaced_and_reported(folder: Path) -> None:
    made = files(folder)
    (folder / "02.png").unlink()
    bucket = made.schedules.index(0)
    (batch,) = made.batches([MicroBatch(0, bucket, torch.arange(made.counts[bucket]), 0, 0)])
    assert len(batch.images) == made.counts[bucket]
    assert "02.png" in (folder.parent / "bad.jsonl").read_text()


def test_a_split_without_images_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no split 'test'"):
        files(folder, "test")
