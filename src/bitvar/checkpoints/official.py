"""Names and shapes of the official checkpoints, both ways, strict.

A table of templates maps our parameter names to theirs; the configuration is read off the shapes. Nothing is guessed:
a missing, unexpected or misshapen tensor stops the conversion, and every one is named. Knows nothing of files.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitvar.errors import WeightsError, explain
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig

Kind = Literal["transformer", "tokenizer"]


@dataclass(frozen=True)
class OfficialLayout:
    """Which of the official spellings a file uses.

    Attributes:
        block_chunks: transformer blocks are grouped in so many `block_chunks.I.module.J`; 1 means plain `blocks.I`.
        inner_names: tokenizer convolutions and norms have an inner `.conv.` or `.norm.` in their names.
        buffers: names of the buffers present, which carry nothing.
    """

    block_chunks: int = 1
    inner_names: bool = True
    buffers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A state dict under our names, with the configuration and the spelling it came in."""

    kind: Kind
    config: TransformerConfig | TokenizerConfig
    tensors: dict[str, Tensor]
    layout: OfficialLayout


_TRANSFORMER = {
    "text.null": "cfg_uncond",
    "text.norm.weight": "text_norm.weight",
    "text.pool.query": "text_proj_for_sos.ca.mat_q",
    "text.pool.kv.weight": "text_proj_for_sos.ca.mat_kv.weight",
    "text.pool.v_bias": "text_proj_for_sos.ca.v_bias",
    "text.pool.proj": "text_proj_for_sos.ca.proj",
    "text.fc1": "text_proj_for_ca.0",
    "text.fc2": "text_proj_for_ca.2",
    "start": "pos_start",
    "scale_embedding": "lvl_embed.weight",
    "word_embedding": "word_embed",
    "shared_modulation": "shared_ada_lin.1",
    "head_modulation": "head_nm.ada_lin.1",
    "head": "head",
}
_BLOCK = {
    "modulation": "ada_gss",
    "self_attention.qkv.weight": "sa.mat_qkv.weight",
    "self_attention.q_bias": "sa.q_bias",
    "self_attention.v_bias": "sa.v_bias",
    "self_attention.log_scale": "sa.scale_mul_1H11",
    "self_attention.proj": "sa.proj",
    "cross_norm": "ca_norm",
    "cross_attention.q": "ca.mat_q",
    "cross_attention.kv.weight": "ca.mat_kv.weight",
    "cross_attention.v_bias": "ca.v_bias",
    "cross_attention.proj": "ca.proj",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
}
_OFFICIAL_SHAPES: dict[str, Callable[[torch.Size], tuple[int, ...]]] = {
    "start": lambda s: (1, 1, *s),
    "text.pool.query": lambda s: (1, *s),
    "modulation": lambda s: (1, 1, *s),
    "self_attention.log_scale": lambda s: (1, *s, 1, 1),
}
_BUFFER = re.compile(r"(^|\.)(zero_k_bias|quantizer?\.lfq\.mask)$")


def from_official(tensors: Mapping[str, Tensor], *, source: str) -> Converted:
    """Rename and reshape an official state dict, checking it whole. Works on the meta device too.

    Args:
        tensors: the tensors alone, taken out of any nesting.
        source: what to call them in errors.

    Raises:
        WeightsError: if this is no such model, or any tensor is missing, unexpected or misshapen (all are named).
    """
    if any("lora_" in name for name in tensors):
        raise WeightsError(
            explain(f"{source} is a LoRA.", "only whole models are converted", "convert the base model it was trained on")
        )
    buffers = tuple(name for name in tensors if _BUFFER.search(name))
    weights = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    if "cfg_uncond" in weights:
        config: TransformerConfig | TokenizerConfig = _transformer_config(weights, source)
        layout = OfficialLayout(block_chunks=_count_chunks(weights), buffers=buffers)
    elif any(name.startswith("encoder.conv_in") for name in weights):
        config = _tokenizer_config(weights, source)
        layout = OfficialLayout(inner_names="encoder.conv_in.conv.weight" in weights, buffers=buffers)
    else:
        raise WeightsError(
            explain(
                f"{source} is neither an Infinity transformer nor its tokenizer.",
                f"it has no 'cfg_uncond' and no 'encoder.conv_in'; it begins with {sorted(weights)[:3]}",
                "give an official checkpoint",
            )
        )
    return _rename(weights, config, layout, source)


def to_official(
    config: TransformerConfig | TokenizerConfig, tensors: Mapping[str, Tensor], layout: OfficialLayout
) -> dict[str, Tensor]:
    """The inverse of `from_official`: their names, shapes and buffers."""
    renamed = {theirs: tensors[ours].reshape(shape) for ours, theirs, shape in _expected(config, layout)}
    return renamed | {name: _buffer(name, config) for name in layout.buffers}


def _rename(
    weights: Mapping[str, Tensor], config: TransformerConfig | TokenizerConfig, layout: OfficialLayout, source: str
) -> Converted:
    expected = list(_expected(config, layout))
    shapes = {theirs: shape for _, theirs, shape in expected}
    problems = [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in weights]
    problems += [f"unexpected: {name} {list(t.shape)}" for name, t in weights.items() if name not in shapes]
    problems += [
        f"misshapen: {name} is {list(weights[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        raise WeightsError(
            explain(
                f"{source} does not fit the model it describes:\n    " + "\n    ".join(problems),
                "the file is incomplete, altered, or of a different model",
                "download it again, or convert the file it was made from",
            )
        )
    ours_shapes = {name: p.shape for name, p in _meta_model(config).state_dict().items()}
    renamed = {ours: weights[theirs].reshape(ours_shapes[ours]) for ours, theirs, _ in expected}
    kind: Kind = "transformer" if isinstance(config, TransformerConfig) else "tokenizer"
    return Converted(kind, config, renamed, layout)


def _meta_model(config: TransformerConfig | TokenizerConfig) -> torch.nn.Module:
    with torch.device("meta"):
        if isinstance(config, TransformerConfig):
            return InfinityTransformer(config)
        return InfinityTokenizer(config)


def _expected(
    config: TransformerConfig | TokenizerConfig, layout: OfficialLayout
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(our name, their name, their shape) of every parameter."""
    for name, parameter in _meta_model(config).state_dict().items():
        if isinstance(config, TransformerConfig):
            theirs = _transformer_name(name, config.depth, layout.block_chunks)
            tail = re.sub(r"^blocks\.\d+\.", "", name)
            reshape = _OFFICIAL_SHAPES.get(tail, tuple)
            yield name, theirs, reshape(parameter.shape)
        else:
            yield name, _tokenizer_name(name, len(config.channels), layout.inner_names), tuple(parameter.shape)


def _transformer_name(name: str, depth: int, chunks: int) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match is None:
        return _translate(name, _TRANSFORMER)
    index, per_chunk = int(match[1]), depth // chunks
    prefix = f"blocks.{index}" if chunks == 1 else f"block_chunks.{index // per_chunk}.module.{index % per_chunk}"
    return f"{prefix}.{_translate(match[2], _BLOCK)}"


def _translate(name: str, table: Mapping[str, str]) -> str:
    if name in table:
        return table[name]
    stem, _, leaf = name.rpartition(".")
    return f"{table[stem]}.{leaf}"


def _tokenizer_name(name: str, num_levels: int, inner_names: bool) -> str:
    half = name.split(".")[0]
    level = re.match(r"(?:encoder|decoder)\.levels\.(\d+)\.", name)
    if level is not None:
        index = int(level[1]) if half == "encoder" else num_levels - 1 - int(level[1])
        side = "down" if half == "encoder" else "up"
        name = name.replace(level[0], f"{half}.{side}.{index}.").replace(".blocks.", ".block.")
        name = name.replace(".resize.", f".{side}sample.").replace(".shortcut.", ".nin_shortcut.")
    name = re.sub(r"\.middle\.(\d)", lambda match: f".mid.block_{int(match[1]) + 1}", name)
    if not inner_names:
        return name
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{'norm' if 'norm' in stem.rsplit('.', 1)[-1] else 'conv'}.{leaf}"


def _transformer_config(weights: Mapping[str, Tensor], source: str) -> TransformerConfig:
    def shape(name: str) -> torch.Size:
        return _shape_of(weights, name, source)

    depth = len({name.rsplit(".", 1)[0] for name in weights if name.endswith(".ada_gss")})
    scale = next((name for name in weights if name.endswith("sa.scale_mul_1H11")), "blocks.0.sa.scale_mul_1H11")
    width, bits = shape("word_embed.weight")
    max_tokens, text_width = shape("cfg_uncond")
    return TransformerConfig(
        depth=depth,
        width=width,
        num_heads=shape(scale)[1],
        bits=bits,
        patch_size=2 if bits == 56 else 1,
        text_width=text_width,
        max_text_tokens=max_tokens,
        max_scales=shape("lvl_embed.weight")[0],
    )


def _tokenizer_config(weights: Mapping[str, Tensor], source: str) -> TokenizerConfig:
    inner = ".conv" if "encoder.conv_in.conv.weight" in weights else ""

    def channels(name: str) -> torch.Size:
        return _shape_of(weights, f"{name}{inner}.weight", source)

    num_levels = len({name.split(".")[2] for name in weights if name.startswith("encoder.down.")})
    blocks = len({name.split(".")[4] for name in weights if name.startswith("encoder.down.0.block.")})
    base = channels("encoder.conv_in")[0]
    widths = [channels(f"encoder.down.{level}.block.0.conv2")[0] for level in range(num_levels)]
    return TokenizerConfig(
        bits=channels("encoder.conv_out")[0],
        base_channels=base,
        channel_multipliers=tuple(width // base for width in widths),
        res_blocks=max(blocks, 1),
        image_channels=channels("encoder.conv_in")[1],
    )


def _shape_of(weights: Mapping[str, Tensor], name: str, source: str) -> torch.Size:
    if name not in weights:
        raise WeightsError(
            explain(f"{source} lacks {name}.", "the file is incomplete or of a different model", "download it again")
        )
    return weights[name].shape


def _count_chunks(weights: Mapping[str, Tensor]) -> int:
    chunks = {match[1] for name in weights if (match := re.match(r"block_chunks\.(\d+)\.", name))}
    return len(chunks) or 1


def _buffer(name: str, config: TransformerConfig | TokenizerConfig) -> Tensor:
    """A buffer that carries nothing, as the official code makes it."""
    if isinstance(config, TransformerConfig):
        return torch.zeros(config.width)
    return 2 ** torch.arange(config.bits - 1, -1, -1)
