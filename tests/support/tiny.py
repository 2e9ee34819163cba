"""Models of a few thousand parameters, for tests: transformer, tokenizer, text encoder, and a pipeline of the three."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.models.bert import BertConfig, BertModel

from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.params import SamplingParams
from bitvar.text import TextEncoder, TextEncoderConfig, load_text_encoder
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.identity import identify
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components

BITS = 4
TEXT_WIDTH = 64
WORDS = ("a", "red", "green", "blue", "circle", "square", "dog", "cat", "on", "left", "of", "and", "##s", "two")
SCHEDULES = (
    {"grids": ((1, 1), (2, 2), (4, 4)), "reference": (4, 4)},
    {"grids": ((1, 1), (1, 2), (2, 4)), "reference": (2, 4)},
)
"""16x16 and 16x8 (width x height) pixels with `tiny_tokenizer`."""


def tiny_transformer(*, seed: int = 0, **changes: Any) -> InfinityTransformer:
    """Two blocks, width 32, 4 bits, on `SCHEDULES`; `changes` go into its `TransformerConfig`."""
    values: dict[str, Any] = {
        "depth": 2,
        "width": 32,
        "num_heads": 2,
        "bits": BITS,
        "text_width": TEXT_WIDTH,
        "max_text_tokens": 16,
        "max_scales": 4,
        "schedules": SCHEDULES,
    }
    model = InfinityTransformer(TransformerConfig.parse(values | changes, source="tiny_transformer"))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval().requires_grad_(False)


def tiny_tokenizer(*, seed: int = 0, **changes: Any) -> InfinityTokenizer:
    """4 bits, stride 4, 32 channels throughout; `changes` go into its `TokenizerConfig`."""
    values: dict[str, Any] = {"bits": BITS, "base_channels": 32, "channel_multipliers": (1, 1, 1), "res_blocks": 1}
    model = InfinityTokenizer(TokenizerConfig.parse(values | changes, source="tiny_tokenizer"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def tiny_text_encoder(tmp_path: Path, *, seed: int = 0) -> TextEncoder:
    """A MiniLM-shaped encoder of random weights that knows `WORDS`, loaded from a makers' folder in `tmp_path`."""
    folder = tmp_path / "tiny-text-encoder"
    folder.mkdir(parents=True, exist_ok=True)
    _vocabulary().save_pretrained(folder)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=TEXT_WIDTH // 2,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    model = BertModel(config, add_pooling_layer=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return load_text_encoder(folder, settings=TextEncoderConfig(kind="minilm", hidden_states=(0, 2)))


def tiny_components(tmp_path: Path, *, image_channels: int = 3, **changes: Any) -> Components:
    """The three together; `changes` go into the `TransformerConfig`. With four channels, images have opacity."""
    tokenizer = tiny_tokenizer(image_channels=image_channels)
    identity = identify("tiny-tokenizer", tokenizer.state_dict())
    index = ModelIndex(name="tiny", tokenizer=identity, defaults=SamplingParams(guidance_scale=2.0))
    return Components(tiny_transformer(**changes), tokenizer, tiny_text_encoder(tmp_path), index, "# tiny\n")


def tiny_pipeline(tmp_path: Path, **changes: Any) -> InfinityPipeline:
    """`tiny_components` as a pipeline."""
    return InfinityPipeline(tiny_components(tmp_path, **changes))


def rough_pipeline(tmp_path: Path, **changes: Any) -> InfinityPipeline:
    """A tiny pipeline whose transformer has rough weights, so that prompts and guidance change bits."""
    made = tiny_components(tmp_path, **changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.transformer.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return InfinityPipeline(made)


def _vocabulary() -> PreTrainedTokenizerFast:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def toy_set(folder: Path) -> Path:
    """A captioned set of circles, 64 pixels, in every split the icons recipe uses."""
    splits = {"train": 12, "val": 3, "held_out_combination": 8, "held_out_prompt": 8}
    colours = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220)}
    (folder / "images").mkdir(parents=True)
    rows = []
    for split, count in splits.items():
        for i in range(count):
            colour = list(colours)[i % 3]
            image = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(image).ellipse((8 + i, 8, 48 + i, 48), fill=colours[colour])
            name = f"images/{split}-{i}.png"
            image.save(folder / name)
            captions = [f"a {colour} circle {i}", f"a {colour} circle on a square {i}"]
            rows.append({"image_path": name, "captions": captions, "split": split})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    manifest = {"concepts": [{"name": "circle"}], "counts": {"train": {"single": 12}}, "seed": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "ATTRIBUTION.md").write_text("# Where the images come from\n\nDrawn here.\n", encoding="utf-8")
    return folder
