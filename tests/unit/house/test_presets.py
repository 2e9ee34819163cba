"""The sizes of the paper and of the published files, counted on the meta device."""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from bitvar.tokenizer import InfinityTokenizer
from bitvar.tokenizer.config import TOKENIZER_PRESETS
from bitvar.transformer import PRESETS, InfinityTransformer

OFFICIAL = json.loads((Path(__file__).parents[2] / "reference" / "official_checkpoints.json").read_text())

# The table of docs/model.md: depth, width, heads, parameters.
TABLE = {
    "125M": (12, 768, 8, 125_185_696),
    "361M": (16, 1152, 12, 361_633_792),
    "940M": (24, 1536, 16, 940_944_832),
    "2.2B": (32, 2080, 20, 2_256_694_912),
    "2B": (32, 2048, 16, 2_204_564_032),
    "4.7B": (40, 2688, 24, 4_716_421_888),
    "8B": (40, 3584, 28, 8_375_791_824),
    "8.8B": (48, 3360, 28, 8_767_198_528),
    "20B": (58, 4608, 36, 19_952_199_784),
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_preset_is_in_the_table() -> None:
    assert set(PRESETS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_transformer_has_exactly_the_papers_parameters(name: str) -> None:
    config = PRESETS[name]
    depth, width, heads, parameters = TABLE[name]
    assert (config.depth, config.width, config.num_heads) == (depth, width, heads)
    with torch.device("meta"):
        model = InfinityTransformer(config)
    assert count(model) == parameters
    assert not list(model.buffers())


@pytest.mark.parametrize(("preset", "official"), [("2B", "infinity_2b"), ("8B", "infinity_8b")])
def test_the_published_transformers_agree_with_their_files(preset: str, official: str) -> None:
    entry, config = OFFICIAL[official], PRESETS[preset]
    assert TABLE[preset][3] == entry["parameters"]
    assert config.text_width == entry["config"]["text_channels"]
    assert config.max_text_tokens == entry["config"]["text_maxlen"]
    assert [config.max_scales, config.width] == entry["tensors"]["lvl_embed.weight"]
    assert [config.width, config.bits] == entry["tensors"]["word_embed.weight"]


@pytest.mark.parametrize(
    ("preset", "official"),
    [
        ("125M", "infinity_layer12"),
        ("361M", "infinity_layer16"),
        ("940M", "infinity_layer24"),
        ("2.2B", "infinity_layer32"),
        ("4.7B", "infinity_layer40"),
        ("8.8B", "infinity_layer48"),
        ("20B", "infinity_20b"),
    ],
)
def test_the_feed_forward_is_as_wide_as_the_released_one(preset: str, official: str) -> None:
    shapes = {tuple(shape) for name, shape in OFFICIAL[official]["tensors"].items() if name.endswith("ffn.fc1.weight")}
    assert shapes == {(PRESETS[preset].ffn_width, PRESETS[preset].width)}


TOKENIZERS = {f"d{bits}": f"infinity_vae_d{bits}" for bits in (16, 24, 32, 64)} | {
    "d56_f8": "infinity_vae_d56_f8_14_patchify"
}


def test_every_published_tokenizer_has_a_preset() -> None:
    assert set(TOKENIZERS) == set(TOKENIZER_PRESETS)
    assert set(TOKENIZERS.values()) == {name for name in OFFICIAL if "vae" in name}


@pytest.mark.parametrize("preset", TOKENIZERS)
def test_a_tokenizer_has_exactly_the_published_parameters(preset: str) -> None:
    entry, config = OFFICIAL[TOKENIZERS[preset]], TOKENIZER_PRESETS[preset]
    with torch.device("meta"):
        model = InfinityTokenizer(config)
    in_file = sum(prod(shape) for name, shape in entry["tensors"].items() if not name.endswith("lfq.mask"))
    assert count(model) == entry["parameters"] == in_file  # the masks are buffers that carry nothing
    assert config.stride == entry["config"]["downsample"]
