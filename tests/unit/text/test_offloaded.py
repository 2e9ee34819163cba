"""A text encoder that leaves after every prompt: the same features, and no weights in between."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.text import CachedTextEncoder, OffloadedTextEncoder
from bitvar.weights.hub import EMBEDDED_MODEL
from bitvar.weights.model_folder import save_folder
from tests.support.tiny import tiny_components


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    save_folder(tiny_components(tmp_path / "source"), tmp_path / "model")
    return tmp_path / "model"


def held(pipe: InfinityPipeline) -> int:
    """Parameters of the text encoder that are in memory."""
    assert pipe.text_encoder is not None
    return sum(p.numel() for p in pipe.text_encoder.model.parameters() if not p.is_meta)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_a_copy_draws_the_same_bits(folder: Path, way: Callable[[InfinityPipeline], InfinityPipeline]) -> None:
    pipe = InfinityPipeline.from_pretrained(folder, device="cpu", offload_text=True)
    copied = way(pipe)
    first, second = (each("a red dog", seed=1, output_type="bits").images for each in (pipe, copied))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert held(copied) == held(pipe)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_draws_the_same_bits_and_drops_its_weights(folder: Path, dtype: str) -> None:
    plain = InfinityPipeline.from_pretrained(folder, dtype=dtype, device="cpu")
    offloaded = InfinityPipeline.from_pretrained(folder, dtype=dtype, device="cpu", offload_text=True)
    assert isinstance(offloaded.text_encoder, OffloadedTextEncoder)
    embeddings = offloaded.text_encoder.model.get_input_embeddings().weight.numel()  # type: ignore[operator]
    for prompts in (["a red dog"], ["a cat", "two red dogs"]):  # read again for every prompt
        assert held(offloaded) == embeddings < held(plain)
        first, second = (pipe.encode_prompts(prompts) for pipe in (plain, offloaded))
        assert torch.equal(first.features, second.features)
        assert torch.equal(first.mask, second.mask)
    assert held(offloaded) == embeddings


def test_it_works_beneath_a_cache(folder: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(folder, device="cpu", offload_text=True)
    assert pipe.text_encoder is not None
    cached = CachedTextEncoder(pipe.text_encoder)
    assert torch.equal(cached.encode(["a cat"]).features, pipe.text_encoder.encode(["a cat"]).features)


def test_it_is_neither_moved_nor_saved(folder: Path, tmp_path: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(folder, device="cpu", offload_text=True)
    with pytest.raises(UsageError, match="text encoder is offloaded"):
        pipe.to("cpu", dtype="bf16")
    with pytest.raises(UsageError, match="Can't save an offloaded text encoder"):
        pipe.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_embedded_model_takes_it() -> None:
    pipe = InfinityPipeline.from_pretrained(EMBEDDED_MODEL, device="cpu", offload_text=True)
    plain = InfinityPipeline.from_pretrained(EMBEDDED_MODEL, device="cpu")
    first, second = (p("a red apple", seed=1, output_type="bits").images for p in (pipe, plain))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
