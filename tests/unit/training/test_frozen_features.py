"""Frozen features: keyed on what they are made of, refused when they are not finite, captions cut to what is read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from bitvar.errors import ComputationError, UsageError
from bitvar.text import TextEncoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.monitor.sample_sheets import Sheet, choose_samples, sample_grid
from bitvar.training.transformer.feature_cache import FeaturesKey, features_key, load_feature_set
from bitvar.training.transformer.long_captions import CaptionLimit
from tests.support.tiny import tiny_text_encoder, tiny_tokenizer, toy_set


@pytest.fixture
def text(tmp_path: Path) -> TextEncoder:
    return tiny_text_encoder(tmp_path / "text")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return toy_set(tmp_path / "set")


def made(data: Path, text: TextEncoder, tokenizer: InfinityTokenizer | None = None) -> list[str]:
    """What was said of making the features of the split "val"."""
    said: list[str] = []
    load_feature_set(
        data, "val", tokenizer=tokenizer or tiny_tokenizer(), text_encoder=text,
        cache=data.parent / "cache.safetensors", key=FeaturesKey("a", "x"), log=said.append,
    )  # fmt: skip
    return [line.split()[2] for line in said]


def new_image(data: Path) -> None:
    Image.new("RGB", (64, 64), "black").save(data / "images" / "val-1.png")


def new_caption(data: Path) -> None:
    path = data / "samples.jsonl"
    text = path.read_text()
    at = text.index('"images/val-0.png"')
    path.write_text(text[:at] + text[at:].replace("a red circle 0", "a blue circle 0", 1))


@pytest.mark.parametrize(("change", "again"), [(new_image, ["images"]), (new_caption, ["captions"])])
def test_what_changed_is_made_again(
    data: Path, text: TextEncoder, change: Callable[[Path], None], again: list[str]
) -> None:
    assert made(data, text) == ["images", "captions"]
    assert made(data, text) == []
    change(data)
    assert made(data, text) == again
    assert made(data, text) == []


def test_the_very_weights_of_the_tokenizer_count_and_not_its_decoder(data: Path, text: TextEncoder) -> None:
    made(data, text)
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        next(tokenizer.decoder.parameters()).add_(1)
    assert made(data, text, tokenizer) == []
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).add_(1)
    assert made(data, text, tokenizer) == ["images"]


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors", "bitvar.json"])
def test_the_key_of_a_text_encoder_is_of_all_its_files(tmp_path: Path, text: TextEncoder, name: str) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    text.save(folder)
    before = features_key("t", text, folder)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("a note")
    assert features_key("t", text, tmp_path / "copy") == before
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert features_key("t", text, folder) != before


def test_features_that_are_not_finite_are_refused(data: Path, text: TextEncoder) -> None:
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ComputationError, match=r"the (frozen )?tokenizer's features"):
        made(data, text, tokenizer)
    with torch.no_grad():
        next(text.model.parameters()).fill_(float("inf"))
    with pytest.raises(ComputationError, match="the frozen text encoder's features"):
        made(data, text)
    assert not (data.parent / "cache.safetensors").exists()


def test_sizes_that_differ_are_named(data: Path, text: TextEncoder) -> None:
    Image.new("RGB", (32, 48)).save(data / "images" / "val-2.png")
    with pytest.raises(UsageError, match=r"2 of 64x64, 1 of 32x48[\s\S]*val-2\.png[\s\S]*--size 64"):
        made(data, text)


# Long captions


def count(text: str) -> int:
    return len(text.split()) + 2


def test_cut_captions_are_counted_and_told_now_and_then() -> None:
    told: list[str] = []
    limit = CaptionLimit(4, count, told.append)
    for _ in range(30):
        limit.fit(["a b c d", "a"])
    assert limit.cut == 30
    assert [line.split()[0] for line in told] == ["1", "10"]
    assert CaptionLimit(None, count).fit(["a " * 900]) == ["a " * 900]


def test_samples_for_sheets_are_a_seeded_choice_of_held_out_ones(data: Path) -> None:
    one, same = choose_samples(data, seed=1, count=2), choose_samples(data, seed=1, count=2)
    assert one.captions == same.captions
    assert len(one.captions) == len(one.images) == 2
    assert all("circle" in caption for caption in one.captions)
    (data / "samples.jsonl").write_text((data / "samples.jsonl").read_text().replace('"val"', '"other"'))
    assert len(choose_samples(data, seed=1).captions) == 12
    (data / "images" / "train-3.png").write_bytes(b"no image")
    assert len(choose_samples(data, seed=1).captions) == 11


@pytest.mark.parametrize(("count", "size"), [(2, (344, 404)), (9, (1352, 800))])
def test_a_sample_sheet_is_as_wide_as_its_images(count: int, size: tuple[int, int], tmp_path: Path) -> None:
    images = [Image.new("RGB", (8, 8))] * count
    sheet = Sheet(["a dog"] * count, images)
    sample_grid(lambda prompt, **_: SimpleNamespace(images=images), tmp_path / "sheet.png", sheet)
    with Image.open(tmp_path / "sheet.png") as written:
        assert written.size == size
