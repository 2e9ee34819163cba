"""The tokenizer recipes: official sizes at every official ratio, and the small one that adapts the embedded one."""

import runpy
from pathlib import Path

import pytest

from bitvar.checkpoints.hub import EMBEDDED_MODEL
from bitvar.scales import ratio_names
from bitvar.tokenizer import TOKENIZER_PRESETS, TokenizerConfig

RECIPES = Path(__file__).parents[2] / "recipes"


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


def test_the_photograph_recipe_has_the_embedded_tokenizers_sizes() -> None:
    made = runpy.run_path(str(RECIPES / "photographs" / "tokenizer.py"))["recipe"]()
    assert made.model == TokenizerConfig.load(EMBEDDED_MODEL / "image_tokenizer" / "config.json")
    assert [grids[-1] for grids in made.schedules] == [(8, 8), (16, 16)]


def test_the_decoder_recipe_leaves_the_encoder_alone() -> None:
    made = runpy.run_path(str(RECIPES / "icons" / "decoder.py"))["recipe"]()
    first = runpy.run_path(str(RECIPES / "icons" / "tokenizer.py"))["recipe"]()
    assert (made.model, made.schedules, made.trained) == (first.model, first.schedules, "decoder")
    assert made.perceptual > 0
