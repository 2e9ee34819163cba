"""The tokenizer recipes: official sizes at every official ratio, and the small one that adapts the embedded one."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.official_schedules import ratio_names
from bitvar.tokenizer import TOKENIZER_PRESETS, TokenizerConfig
from bitvar.weights.hub import TOKENIZERS
from bitvar.weights.identity import TokenizerIdentity, identify
from bitvar.weights.index import GRIDS, TrainedGrids
from bitvar.weights.tensors import read_tensors
from tests.support.tiny import toy_set

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = RECIPES.parent / "scripts"


@pytest.mark.parametrize("size", TOKENIZER_PRESETS)
@pytest.mark.parametrize(("pixels", "cells"), [(256, 16), (1024, 64)])
def test_published_sizes_see_every_ratio(size: str, pixels: int, cells: int) -> None:
    made = runpy.run_path(str(RECIPES / "tokenizer.py"))["recipe"](size=size, pixels=pixels, trained="decoder")
    assert made.model == TOKENIZER_PRESETS[size]
    assert len(made.schedules) == len(ratio_names())
    patch = 2 if size == "d56_f8" else 1
    assert made.schedules[0][-1] == (cells * patch, cells * patch)
    assert all(h * made.model.stride % 16 == 0 and w * made.model.stride % 16 == 0 for h, w in made.schedules[3])
    assert made.trained == "decoder"


def test_the_photograph_recipe_begins_from_the_one_of_icons_alone() -> None:
    made = runpy.run_path(str(RECIPES / "photographs" / "tokenizer.py"))["recipe"]()
    assert made.model == runpy.run_path(str(RECIPES / "icons" / "tokenizer.py"))["recipe"]().model
    assert [grids[-1] for grids in made.schedules] == [(8, 8), (16, 16)]


def test_the_decoder_recipe_leaves_the_encoder_alone() -> None:
    made = runpy.run_path(str(RECIPES / "icons" / "decoder.py"))["recipe"]()
    first = runpy.run_path(str(RECIPES / "icons" / "tokenizer.py"))["recipe"]()
    assert (made.model, made.schedules, made.trained) == (first.model, first.schedules, "decoder")
    assert made.perceptual > 0


@pytest.mark.parametrize("folder", TOKENIZERS, ids=lambda folder: folder.name)
def test_the_general_recipe_is_that_of_the_tokenizers_in_the_package(folder: Path) -> None:
    made = runpy.run_path(str(RECIPES / "general" / "tokenizer.py"))["recipe"](folder.name)
    finish = runpy.run_path(str(RECIPES / "general" / "finish.py"))["recipe"](folder.name)
    assert made.model == finish.model == TokenizerConfig.load(folder / "config.json")
    assert finish.schedules == TrainedGrids.load(folder / GRIDS).grids
    assert finish.schedules[0] == made.schedules[0]
    assert (made.trained, finish.trained) == ("all", "all")
    assert finish.perceptual == {"general": 0.03, "fine": 0}[folder.name]
    assert finish.optimization.steps == {"general": 700, "fine": 2400}[folder.name]
    assert finish.optimization.learning_rate < made.optimization.learning_rate
    assert finish.optimization.batch_size >= made.optimization.batch_size


@pytest.mark.parametrize("folder", TOKENIZERS, ids=lambda folder: folder.name)
def test_the_tokenizers_in_the_package_are_whom_they_say(folder: Path) -> None:
    identity = TokenizerIdentity.load(folder / "identity.json")
    code_norms = TokenizerConfig.load(folder / "config.json").code_norms
    assert identity == identify(identity.name, read_tensors(folder), code_norms)


def test_an_unknown_size_of_the_general_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="'general32'"):
        runpy.run_path(str(RECIPES / "general" / "tokenizer.py"))["recipe"]("general23")


@pytest.mark.parametrize("side", [64, 128])  # the photograph's shorter side is between them
def test_images_are_training_icons_and_crops_of_photographs_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: int
) -> None:
    icons = toy_set(tmp_path / "icons")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photographs / "noise.png")
    for name in ("one", "two"):
        words = [tmp_path / name, "--icons", icons, "--photographs", photographs, "--crops", 6, "--plain", 5]
        words += ["--side", side]
        monkeypatch.setattr("sys.argv", ["build.py", *map(str, words)])
        runpy.run_path(str(SCRIPTS / "general" / "build.py"), run_name="__main__")
    assert "12 icons and 6 crops of photographs, 5 plain images" in capsys.readouterr().out
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
        for name in ("one", "two")
    )
    assert one == two
    assert len(set(one.values())) == len(one) == 23
    for path in [*(tmp_path / "one" / "photographs").rglob("*.png"), *(tmp_path / "one" / "plain").iterdir()]:
        with Image.open(path) as crop:
            assert crop.size == (side, side)
    with pytest.raises(UsageError, match="it exists already"):
        runpy.run_path(str(SCRIPTS / "general" / "build.py"), run_name="__main__")
