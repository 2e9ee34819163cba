"""Frozen features are made once: images for each tokenizer, captions for each text encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.data.samples import read_samples
from bitvar.imaging.alpha import lay_on_white
from bitvar.imaging.convert import channels_first
from bitvar.imaging.pixels import to_signed
from bitvar.text import TextEncoder
from bitvar.training.transformer.feature_cache import FeaturesKey, features_key, load_feature_set
from bitvar.training.transformer.task import FeatureSet
from tests.support.tiny import tiny_text_encoder, tiny_tokenizer, toy_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_set(tmp_path_factory.mktemp("features") / "set")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, TextEncoder]:
    folder = tmp_path_factory.mktemp("texts")
    return tiny_text_encoder(folder), tiny_text_encoder(folder, seed=1)


def made(
    data: Path, folder: Path, key: FeaturesKey, *, text: TextEncoder, seed: int = 0, split: str = "val"
) -> tuple[FeatureSet, list[str]]:
    """The features, and what was said of making them."""
    said: list[str] = []
    parts = {"tokenizer": tiny_tokenizer(seed=seed), "text_encoder": text}
    return load_feature_set(data, split, **parts, cache=folder / "cache.safetensors", key=key, log=said.append), said


def test_each_part_is_made_once(data: Path, encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    first, second = encoders
    before, said = made(data, tmp_path, FeaturesKey("a", "x"), text=first)
    assert [line.split()[2] for line in said] == ["images", "captions"]
    again, said = made(data, tmp_path, FeaturesKey("a", "x"), text=first)
    assert not said
    assert torch.equal(again.features, before.features)
    assert torch.equal(again.captions.tokens, before.captions.tokens)

    other, said = made(data, tmp_path, FeaturesKey("b", "x"), text=first, seed=1)
    assert [line.split()[2] for line in said] == ["images"]
    assert not torch.equal(other.features, before.features)
    assert torch.equal(other.captions.tokens, before.captions.tokens)

    third, said = made(data, tmp_path, FeaturesKey("b", "y"), text=second, seed=1)
    assert [line.split()[2] for line in said] == ["captions"]
    assert torch.equal(third.features, other.features)
    assert not torch.equal(third.captions.tokens, before.captions.tokens)


def test_another_set_or_split_is_another_matter(
    data: Path, encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path
) -> None:
    key = FeaturesKey("a", "x")
    made(data, tmp_path, key, text=encoders[0])
    assert len(made(data, tmp_path, key, text=encoders[0], split="train")[1]) == 2
    assert len(made(data, tmp_path, key, text=encoders[0])[1]) == 2
    changed = toy_set(tmp_path / "set")
    lines = (changed / "samples.jsonl").read_text().splitlines()
    (changed / "samples.jsonl").write_text("".join(line + "\n" for line in lines if '"val"' in line))
    assert made(changed, tmp_path, key, text=encoders[0])[1] == []  # the same split of a set that is smaller
    (changed / "samples.jsonl").write_text(
        "".join(line + "\n" for line in lines if '"val"' in line and "val-1" not in line)
    )
    assert len(made(changed, tmp_path, key, text=encoders[0])[1]) == 2


def test_the_key_is_of_weights_and_states(encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    first, second = encoders
    for name, encoder in {"first": first, "second": second}.items():
        (tmp_path / name).mkdir()
        encoder.save(tmp_path / name)
    keys = [features_key("t", each, tmp_path / name) for each, name in ((first, "first"), (second, "second"))]
    assert keys[0].tokenizer == keys[1].tokenizer == "t"
    assert keys[0].text_encoder != keys[1].text_encoder
    assert features_key("t", first, tmp_path / "first") == keys[0]


def test_a_tokenizer_with_opacity_sees_it(encoders: tuple[TextEncoder, TextEncoder], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set")
    samples = list(read_samples(folder, split="val"))
    rng = np.random.default_rng(0)
    for sample in samples:
        Image.fromarray(rng.integers(256, size=(64, 64, 4), dtype=np.uint8)).save(sample.path)
    tokenizer = tiny_tokenizer(image_channels=4)
    found = load_feature_set(
        folder, "val", tokenizer=tokenizer, text_encoder=encoders[0], cache=tmp_path / "cache.safetensors",
        key=FeaturesKey("a", "x"), log=lambda line: None,
    )  # fmt: skip
    pixels = np.stack([lay_on_white(np.asarray(Image.open(sample.path))) for sample in samples])
    with torch.inference_mode():
        expected = tokenizer.features(to_signed(channels_first(pixels)))
    torch.testing.assert_close(found.features.float(), expected.half().float())
