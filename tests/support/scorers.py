"""Tiny scoring networks of random weights with the interfaces of the published ones, for tests."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerModel,
    PreTrainedTokenizerFast,
    SwinConfig,
)

WORDS = ("a", "photo", "of", "red", "green", "blue", "bench", "object", "is", "there", "the", "image", "yes", "no")


def word_tokenizer(folder: Path, *, length: int = 16) -> Path:
    """Save a tokenizer that knows `WORDS`, with a beginning and an end."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=length,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    fast.save_pretrained(folder)
    return folder


def _randomized(model: Any, *, scale: float = 0.2, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tiny_clip(folder: Path) -> Path:
    """Save a CLIP of one layer a tower, 28 pixels, with a tokenizer."""
    word_tokenizer(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": 4 + len(WORDS), "max_position_embeddings": 16},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        projection_dim=16,
    )
    _randomized(CLIPModel(config)).save_pretrained(folder)
    return folder


def tiny_detector(folder: Path, *, classes: int = 80) -> Path:
    """Save a Mask2Former of a few layers that finds something everywhere."""
    backbone = SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, num_labels=classes, num_queries=8, hidden_dim=32, feature_size=32,
        mask_feature_size=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, encoder_feedforward_dim=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, head = Mask2FormerModel(config), torch.nn.Linear(32, classes + 1)
    head.weight.data.mul_(40)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"class_predictor.{name}": tensor for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def open_clip_tensors(*, width: int = 64, layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of a tiny HPSv2, under open_clip's names."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    tensors = {
        "positional_embedding": random(16, width), "text_projection": random(width, 32), "logit_scale": random(),
        "token_embedding.weight": random(4 + len(WORDS), width),
        "ln_final.weight": random(width), "ln_final.bias": random(width),
        "visual.class_embedding": random(width), "visual.positional_embedding": random(5, width),
        "visual.proj": random(width, 32), "visual.conv1.weight": random(width, 3, 14, 14),
        **{f"visual.{n}.{p}": random(width) for n in ("ln_pre", "ln_post") for p in ("weight", "bias")},
    }  # fmt: skip
    for prefix in ("visual.", ""):
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}."
            tensors |= {f"{block}{n}.{p}": random(width) for n in ("ln_1", "ln_2") for p in ("weight", "bias")}
            tensors |= {
                f"{block}attn.in_proj_weight": random(3 * width, width), f"{block}attn.in_proj_bias": random(3 * width),
                f"{block}attn.out_proj.weight": random(width, width), f"{block}attn.out_proj.bias": random(width),
                f"{block}mlp.c_fc.weight": random(4 * width, width), f"{block}mlp.c_fc.bias": random(4 * width),
                f"{block}mlp.c_proj.weight": random(width, 4 * width), f"{block}mlp.c_proj.bias": random(width),
            }  # fmt: skip
    return tensors


def imagereward_tensors(*, width: int = 64, layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of a tiny ImageReward, under its own names."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    def pair(name: str, *shape: int) -> dict[str, Tensor]:
        return {f"{name}.weight": random(*shape), f"{name}.bias": random(shape[0])}

    see, read = "blip.visual_encoder.", "blip.text_encoder."
    tensors = {
        f"{see}cls_token": random(1, 1, width), f"{see}pos_embed": random(1, 5, width),
        **pair(f"{see}patch_embed.proj", width, 3, 16, 16), **pair(f"{see}norm", width),
        f"{read}embeddings.word_embeddings.weight": random(4 + len(WORDS), width),
        f"{read}embeddings.position_embeddings.weight": random(64, width),
        f"{read}embeddings.position_ids": torch.arange(64)[None],
        **pair(f"{read}embeddings.LayerNorm", width),
        **pair("blip.vision_proj", 16, width), **pair("blip.text_proj", 16, width),
    }  # fmt: skip
    for layer in range(layers):
        block = f"{see}blocks.{layer}."
        tensors |= pair(f"{block}norm1", width) | pair(f"{block}norm2", width)
        tensors |= pair(f"{block}attn.qkv", 3 * width, width) | pair(f"{block}attn.proj", width, width)
        tensors |= pair(f"{block}mlp.fc1", 4 * width, width) | pair(f"{block}mlp.fc2", width, 4 * width)
        block = f"{read}encoder.layer.{layer}."
        for kind in ("attention", "crossattention"):
            for part in ("query", "key", "value"):
                tensors |= pair(f"{block}{kind}.self.{part}", width, width)
            tensors |= pair(f"{block}{kind}.output.dense", width, width) | pair(
                f"{block}{kind}.output.LayerNorm", width
            )
        tensors |= pair(f"{block}intermediate.dense", 4 * width, width) | pair(f"{block}output.dense", width, 4 * width)
        tensors |= pair(f"{block}output.LayerNorm", width)
    for number, (inside, outside) in enumerate(((width, 32), (32, 16), (16, 1))):
        tensors |= pair(f"mlp.layers.{2 * number}", outside, inside)
    return tensors
