"""A tokenizer or text encoder given by itself is verified as a model folder is."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitvar.codec import ImageCodec
from bitvar.errors import WeightsError
from bitvar.weights import digests
from bitvar.weights.digests import MANIFEST
from bitvar.weights.hub import EMBEDDED_TOKENIZER
from bitvar.weights.model_folder import verify_part

PARTS = ("text_encoder", "image_tokenizer")


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def bare(tiny_model: Path, tmp_path: Path) -> Path:
    """A text encoder as its makers publish it: no manifest, and the integers that BERT keeps beside its weights."""
    folder = tmp_path / "published"
    shutil.copytree(tiny_model / "text_encoder", folder)
    (folder / "bitvar.json").unlink()
    save_file({"weight": torch.ones(3), "embeddings.position_ids": torch.arange(4)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_sound_part_gives_its_digests(model: Path, part: str) -> None:
    sums = json.loads((model / MANIFEST).read_text())
    expected = {name.removeprefix(f"{part}/"): value for name, value in sums.items() if name.startswith(f"{part}/")}
    assert verify_part(model / part) == expected
    (model / "link").symlink_to(model / part)
    assert verify_part(model / "link") == expected


def test_a_tokenizer_folder_has_its_own_manifest(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED_TOKENIZER, tmp_path / "mine"))
    assert set(verify_part(folder)) >= {"config.json", "identity.json", "model.safetensors"}
    _flip(folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: sha256"):
        verify_part(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_byte_of_a_part_is_refused(model: Path, part: str, name: str) -> None:
    _flip(model / part / name)
    with pytest.raises(WeightsError, match=f"{part}/{name}: sha256"):
        verify_part(model / part)


@pytest.mark.parametrize("name", ["adapter_config.json", "other.safetensors", "modeling.py"])
def test_an_unlisted_file_of_a_part_is_refused(model: Path, name: str) -> None:
    (model / "text_encoder" / name).write_text("{}")
    with pytest.raises(WeightsError, match=f"{name}: not in {MANIFEST}"):
        verify_part(model / "text_encoder")


def test_a_missing_file_of_a_part_is_refused(model: Path) -> None:
    (model / "text_encoder" / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"tokenizer\.json: missing"):
        verify_part(model / "text_encoder")


def test_a_tokenizer_without_any_manifest_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model / "image_tokenizer", tmp_path / "alone"))
    with pytest.raises(WeightsError, match=f"no readable {MANIFEST}"):
        verify_part(folder)


def test_a_published_text_encoder_is_taken_without_a_manifest(bare: Path) -> None:
    assert verify_part(bare) == {}


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.tensor([1.0, float("nan")]), "NaN or infinite"),
        (torch.tensor([1.0, float("inf")]), "NaN or infinite"),
        (torch.ones(2, dtype=torch.int8), "not floating point"),
        (torch.ones(2, dtype=torch.bool), "not floating point"),
        (torch.ones(2, dtype=torch.complex64), "not floating point"),
    ],
)
def test_a_published_text_encoder_with_unsound_weights_is_refused(bare: Path, tensor: torch.Tensor, why: str) -> None:
    tensors = load_file(bare / "model.safetensors") | {"weight": tensor}
    save_file(tensors, bare / "model.safetensors")
    with pytest.raises(WeightsError, match=why):
        verify_part(bare)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="no folder"):
        verify_part(tmp_path / name)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_pipe_in_a_part_is_refused(model: Path) -> None:
    os.mkfifo(model / "image_tokenizer" / "x.json")
    with pytest.raises(WeightsError, match=r"x\.json: not in"):
        verify_part(model / "image_tokenizer")


def test_the_tokenizer_in_a_model_is_a_tokenizer(model: Path) -> None:
    codec = ImageCodec.from_pretrained(model / "image_tokenizer", device="cpu")
    assert codec.identity == ImageCodec.from_pretrained(model, device="cpu").identity
    (model / "image_tokenizer" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config\.json"):
        ImageCodec.from_pretrained(model / "image_tokenizer", device="cpu")


def test_files_that_may_not_be_read_are_not_called_altered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(digests, "digest", refuse)
    with pytest.raises(WeightsError, match="may not read") as error:
        digests.verify_folder(model)
    assert "altered" not in str(error.value)
