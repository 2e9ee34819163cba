"""The icons recipe end to end, at toy size: tokenizer, transformer, publishing, and an image from what came out."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bitvar.cli import main as cli
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.params import SamplingParams
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.transformer import TransformerConfig
from bitvar.weights.hub import EMBEDDED_MODEL
from tests.support.tiny import tiny_text_encoder, toy_set

RECIPES = Path(__file__).parents[2] / "recipes" / "icons"
GENERAL = RECIPES.parent / "general"
SCRIPTS = RECIPES.parents[1] / "scripts" / "icons"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return toy_set(tmp_path / "data")


def bitvar(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, code: int = 0) -> None:
    monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code or 0) == code


def recipe(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def test_the_whole_recipe_at_toy_size(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text_encoder = tmp_path / "text"
    text_encoder.mkdir()
    tiny_text_encoder(tmp_path).save(text_encoder)
    toy = ("--set", "optimization.steps=2", "--set", "optimization.batch_size=4", "--data", data)
    small = ("--set", "model.base_channels=8")
    bitvar(monkeypatch, "train", GENERAL / "tokenizer.py", *toy, *small, "--out", tmp_path / "tokenizer")
    sizes = (
        "model.depth=1",
        "model.width=64",
        "model.num_heads=2",
        "model.text_width=64",
        "model.max_text_tokens=32",
        "model.text_adapter_width=64",
    )
    settings = [part for size in sizes for part in ("--set", size)]
    inputs = ("--tokenizer", tmp_path / "tokenizer" / "model", "--text-encoder", text_encoder)
    bitvar(monkeypatch, "train", RECIPES / "transformer.py", *toy, *settings, *inputs, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    phases = [json.loads(line)["phase"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert phases == ["train", "validation"]

    out, gallery = tmp_path / "published", tmp_path / "gallery"
    recipe(monkeypatch, "publish.py", "--run", tmp_path / "run", "--data", data, *inputs, "--out", out)
    recipe(monkeypatch, "gallery.py", gallery, "--model", out)
    sections = json.loads((gallery / "gallery.json").read_text())["sections"].values()
    assert [len(section) for section in sections] == [16, 8, 8, 8, 8]
    for name, width in {"gallery.png": 1040, "gallery-unnamed.png": 1040, "scales.png": 528}.items():
        with Image.open(gallery / name) as image:
            assert image.width == width
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "{" not in card
    assert "Drawn here." in card
    assert InfinityPipeline.from_pretrained(out)("a red circle", seed=1).images[0].size == (64, 64)

    exported = tmp_path / "exported"
    bitvar(monkeypatch, "export", tmp_path / "run", exported, *inputs, "--step", "2")
    averaged = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "ema.safetensors")
    assert all(torch.equal(p, averaged[n]) for n, p in load_folder_transformer(exported).named_parameters())
    bitvar(monkeypatch, "export", tmp_path / "tokenizer", tmp_path / "exported tokenizer")
    for name in ("model.safetensors", "config.json", "identity.json", "SHA256SUMS.json"):
        again, made = (tmp_path / folder / name for folder in ("exported tokenizer", "tokenizer/model"))
        assert again.read_bytes() == made.read_bytes()
    bitvar(monkeypatch, "export", tmp_path / "run", tmp_path / "half", *inputs, "--step", "2", "--dtype", "fp16")
    stored = load_file(tmp_path / "half" / "transformer" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert InfinityPipeline.from_pretrained(tmp_path / "half", device="cpu").transformer.dtype == torch.float32
    bitvar(monkeypatch, "export", tmp_path / "run", exported, *inputs, code=2)  # it exists
    bitvar(monkeypatch, "export", tmp_path / "run", tmp_path / "e", code=2)  # without its frozen parts
    bitvar(monkeypatch, "export", tmp_path / "run", tmp_path / "e", *inputs, "--step", "1", code=2)
    bitvar(monkeypatch, "export", tmp_path / "nowhere", tmp_path / "e", *inputs, code=2)
    bitvar(monkeypatch, "export", tmp_path / "run", tmp_path / "e", *inputs, "--dtype", "fp8", code=2)
    bitvar(monkeypatch, "export", tmp_path / "tokenizer", tmp_path / "e", "--dtype", "fp16", code=2)

    tune = ("train", RECIPES / "finetune.py", *toy, "--init", out, "--out")
    bitvar(monkeypatch, *tune, tmp_path / "tuned", *settings)
    tuned, before = (InfinityPipeline.from_pretrained(f) for f in (tmp_path / "tuned" / "model", out))
    assert tuned.index.tokenizer == before.index.tokenizer
    bitvar(monkeypatch, "export", tmp_path / "tuned", tmp_path / "of init", "--best", "--init", out)
    exported = InfinityPipeline.from_pretrained(tmp_path / "of init", device="cpu")
    assert exported.index.tokenizer == before.index.tokenizer
    assert tuned.index.defaults == before.index.defaults != SamplingParams()
    assert not torch.equal(tuned.transformer.head.weight, before.transformer.head.weight)
    torch.testing.assert_close(tuned.transformer.head.weight, before.transformer.head.weight, atol=0.01, rtol=0)
    bitvar(monkeypatch, *tune, tmp_path / "other sizes", code=3)
    (tmp_path / "tokenizer" / "model" / "identity.json").write_text('{"name": "other", "sha256": "0"}')
    foreign = ("--tokenizer", tmp_path / "tokenizer" / "model")
    bitvar(monkeypatch, *tune, tmp_path / "other tokenizer", *settings, *foreign, code=3)


def load_folder_transformer(folder: Path) -> torch.nn.Module:
    return InfinityPipeline.from_pretrained(folder, device="cpu").transformer


def test_recipes_are_configurations() -> None:
    tokenizer = runpy.run_path(str(GENERAL / "tokenizer.py"))["recipe"]()
    transformer = runpy.run_path(str(RECIPES / "transformer.py"))["recipe"]()
    assert isinstance(tokenizer, TokenizerTraining)
    assert isinstance(transformer, TransformerTraining)
    patch = transformer.model.patch_size
    assert transformer.model.all_schedules()[0].latent_grids(patch) == tokenizer.schedules[0]
    assert transformer.model.bits == tokenizer.model.bits * patch**2


@pytest.mark.parametrize("name", ["transformer_gpu", "finish", "finetune", "lora"])
def test_recipes_of_the_embedded_model_have_its_sizes(name: str) -> None:
    made = runpy.run_path(str(RECIPES / f"{name}.py"))["recipe"]()
    assert made.model == TransformerConfig.load(EMBEDDED_MODEL / "transformer" / "config.json")


IMAGES = Path(__file__).parents[2] / "docs" / "images"


def test_the_gallery_has_the_prompts_of_its_recipe() -> None:
    gallery = runpy.run_path(str(SCRIPTS / "gallery.py"))
    listed = json.loads((IMAGES / "gallery.json").read_text(encoding="utf-8"))
    assert listed == {"seed": 0, "sections": {title: list(rows) for title, rows in gallery["all_sections"]().items()}}


@pytest.mark.slow
def test_the_gallery_can_be_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors round differently, which may flip a bit here and there: a few images may differ a little."""
    recipe(monkeypatch, "gallery.py", tmp_path)
    for name in ("gallery.png", "scales.png"):
        with Image.open(IMAGES / name) as kept, Image.open(tmp_path / name) as drawn:
            assert kept.size == drawn.size
            far = np.abs(np.asarray(kept, dtype=int) - np.asarray(drawn, dtype=int)).max(axis=2) > 8
        assert far.mean() < 0.02
