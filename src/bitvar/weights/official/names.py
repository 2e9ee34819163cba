"""Names and shapes of the tensors in official checkpoints, converted strictly in both directions.

Templates map our parameter names to the official ones, and the configuration is derived from the shapes. Nothing is
guessed: any missing, unexpected or misshapen tensor stops the conversion and is named. This module reads no files.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from bitvar.config import Config
from bitvar.errors import UsageError, WeightsError
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig

Kind = Literal["transformer", "tokenizer"]
BufferType = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32"]

Value = Annotated[int, Field(ge=-(1 << 62), le=1 << 62)] | Annotated[float, Field(ge=-1e300, le=1e300)]

C = TypeVar("C", bound=Config)


class OfficialBuffer(Config):
    """A buffer of an official file. The model does not need it; it is kept to write the same file again.

    Attributes:
        dtype, shape: Dtype and shape of the tensor.
        values: The `d` values of a `mask`; empty for a `zero_k_bias`, which is all zeros.
    """

    dtype: BufferType
    shape: tuple[Annotated[int, Field(ge=0, le=1 << 16)], ...] = Field(max_length=2)
    values: tuple[Value, ...] = Field(default=(), max_length=512)


@dataclass(frozen=True)
class OfficialLayout:
    """The variant of official names that a file uses.

    Attributes:
        block_chunks: Number of groups `block_chunks.I.module.J` of transformer blocks; 1 means plain `blocks.I`.
        inner_names: Whether the names of tokenizer convolutions and norms contain an inner `.conv.` or `.norm.`.
        buffers: Buffers in the file, by name.
    """

    block_chunks: int = 1
    inner_names: bool = True
    buffers: Mapping[str, OfficialBuffer] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """A state dict under our names, with its configuration and the layout of the official file."""

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
    "start_token": "pos_start",
    "scale_embedding": "lvl_embed.weight",
    "input_proj": "word_embed",
    "shared_modulation": "shared_ada_lin.1",
    "head_modulation": "head_nm.ada_lin.1",
    "head": "head",
}
_BLOCK = {
    "modulation": "ada_gss",
    "self_attention.qkv.weight": "sa.mat_qkv.weight",
    "self_attention.q_bias": "sa.q_bias",
    "self_attention.v_bias": "sa.v_bias",
    "self_attention.logit_scale": "sa.scale_mul_1H11",
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
    "start_token": lambda s: (1, 1, *s),
    "text.pool.query": lambda s: (1, *s),
    "modulation": lambda s: (1, 1, *s),
    "self_attention.logit_scale": lambda s: (1, *s, 1, 1),
}
_MASKS: Final = ("quantizer.lfq.mask", "quantize.lfq.mask")
_BLOCK_PREFIX = re.compile(r"(?:blocks\.\d+|block_chunks\.(\d+)\.module\.\d+)\.")


def from_official(tensors: Mapping[str, Tensor], *, source: str) -> Converted:
    """Rename, reshape and check all tensors of an official state dict. Works on the meta device too.

    Args:
        tensors: Flat state dict, without any nesting.
        source: Name of the file, for errors.

    Raises:
        WeightsError: for another model, or for missing, unexpected or misshapen tensors, which are all named.
    """
    if any("lora_" in name for name in tensors):
        raise WeightsError(
            f"{source} is a LoRA.", "only whole models are converted", "convert the base model it was trained on"
        )
    if "cfg_uncond" in tensors:
        config: TransformerConfig | TokenizerConfig = _transformer_config(tensors, source)
        layout = OfficialLayout(block_chunks=_count_chunks(tensors))
    elif any(name.startswith("encoder.conv_in") for name in tensors):
        config = _tokenizer_config(tensors, source)
        layout = OfficialLayout(inner_names="encoder.conv_in.conv.weight" in tensors)
    else:
        raise WeightsError(
            f"{source} is neither an Infinity transformer nor its tokenizer.",
            f"it has no 'cfg_uncond' and no 'encoder.conv_in'; it begins with {sorted(tensors)[:3]}",
            "give an official checkpoint",
        )
    return _rename(tensors, config, layout, source)


def to_official(
    config: TransformerConfig | TokenizerConfig, tensors: Mapping[str, Tensor], layout: OfficialLayout
) -> dict[str, Tensor]:
    """Convert a state dict back to official names, shapes and buffers: the inverse of `from_official`."""
    renamed = {theirs: tensors[ours].reshape(shape) for ours, theirs, shape in _expected(config, layout)}
    return renamed | {name: _make_buffer(buffer) for name, buffer in layout.buffers.items()}


def _rename(
    tensors: Mapping[str, Tensor], config: TransformerConfig | TokenizerConfig, layout: OfficialLayout, source: str
) -> Converted:
    expected = list(_expected(config, layout))
    shapes = {theirs: shape for _, theirs, shape in expected}
    buffers = {name: shape for name, shape in _buffer_shapes(config, layout).items() if name in tensors}
    problems = [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in tensors]
    problems += [
        f"unexpected: {name} {list(t.shape)}"
        for name, t in tensors.items()
        if name not in shapes and name not in buffers
    ]
    problems += [
        f"misshapen: {name} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in (shapes | buffers).items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [
        f"not floating-point: {name} is {tensors[name].dtype}"
        for name in shapes
        if name in tensors and not tensors[name].is_floating_point()
    ]
    problems += [
        f"not zero: {name}, a key bias, which these models don't have"
        for name in buffers
        if name not in _MASKS and not tensors[name].is_meta and tensors[name].any()
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit the model it describes:\n    " + "\n    ".join(problems),
            "the file is incomplete, altered, or of a different model",
            "download it again, or convert the file it was made from",
        )
    ours_shapes = {name: p.shape for name, p in _meta_model(config).state_dict().items()}
    renamed = {ours: tensors[theirs].reshape(ours_shapes[ours]) for ours, theirs, _ in expected}
    kind: Kind = "transformer" if isinstance(config, TransformerConfig) else "tokenizer"
    described = {name: _describe_buffer(name, tensors[name], source) for name in buffers}
    return Converted(kind, config, renamed, replace(layout, buffers=described))


def _meta_model(config: TransformerConfig | TokenizerConfig) -> torch.nn.Module:
    with torch.device("meta"):
        if isinstance(config, TransformerConfig):
            return InfinityTransformer(config)
        return InfinityTokenizer(config)


def _expected(
    config: TransformerConfig | TokenizerConfig, layout: OfficialLayout
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (our name, official name, official shape) of every parameter."""
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
    return f"{_block_prefix(int(match[1]), depth, chunks)}.{_translate(match[2], _BLOCK)}"


def _block_prefix(index: int, depth: int, chunks: int) -> str:
    if chunks == 1:
        return f"blocks.{index}"
    per_chunk = depth // chunks
    return f"block_chunks.{index // per_chunk}.module.{index % per_chunk}"


def _translate(name: str, table: Mapping[str, str]) -> str:
    if name in table:
        return table[name]
    stem, _, leaf = name.rpartition(".")
    return f"{table[stem]}.{leaf}"


def _tokenizer_name(name: str, num_levels: int, inner_names: bool) -> str:
    half = name.split(".", maxsplit=1)[0]
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
    def shape(name: str, dims: int = 2) -> torch.Size:
        return _shape_of(weights, name, dims, source)

    depth = len({match[0] for name in weights if (match := _BLOCK_PREFIX.match(name))})
    scale = next((name for name in weights if name.endswith("sa.scale_mul_1H11")), "blocks.0.sa.scale_mul_1H11")
    width, bits = shape("word_embed.weight")
    max_tokens, text_width = shape("cfg_uncond")
    values = {
        "depth": depth,
        "width": width,
        "num_heads": shape(scale, 4)[1],
        "bits": bits,
        "patch_size": 2 if bits == 56 else 1,
        "text_width": text_width,
        "max_text_tokens": max_tokens,
        "max_scales": shape("lvl_embed.weight")[0],
    }
    return _parse(TransformerConfig, values, source)


def _tokenizer_config(weights: Mapping[str, Tensor], source: str) -> TokenizerConfig:
    inner = ".conv" if "encoder.conv_in.conv.weight" in weights else ""

    def channels(name: str) -> torch.Size:
        return _shape_of(weights, f"{name}{inner}.weight", 4, source)

    num_levels = len({name.split(".")[2] for name in weights if name.startswith("encoder.down.")})
    blocks = len({name.split(".")[4] for name in weights if name.startswith("encoder.down.0.block.")})
    base = channels("encoder.conv_in")[0]
    widths = [channels(f"encoder.down.{level}.block.0.conv2")[0] for level in range(num_levels)]
    values = {
        "bits": channels("encoder.conv_out")[0],
        "base_channels": base,
        "channel_multipliers": tuple(max(1, width // max(1, base)) for width in widths),
        "res_blocks": max(blocks, 1),
        "image_channels": channels("encoder.conv_in")[1],
    }
    return _parse(TokenizerConfig, values, source)


def _shape_of(weights: Mapping[str, Tensor], name: str, dims: int, source: str) -> torch.Size:
    if name not in weights or weights[name].ndim != dims:
        found = (
            f"has {name} of shape {list(weights[name].shape)}, expected {dims} dimensions"
            if name in weights
            else f"lacks {name}"
        )
        raise WeightsError(f"{source} {found}.", "the file is incomplete or of a different model", "download it again")
    return weights[name].shape


def _parse(cls: type[C], values: Mapping[str, object], source: str) -> C:
    try:
        return cls.parse(values, source=f"the shapes of {source}")
    except UsageError as error:
        raise WeightsError(str(error)) from None


def _count_chunks(weights: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in weights if (match := _BLOCK_PREFIX.match(name)) and match[1]}) or 1


def _buffer_shapes(config: TransformerConfig | TokenizerConfig, layout: OfficialLayout) -> dict[str, tuple[int, ...]]:
    """Return the shape of every buffer that a file may contain. Some files contain none."""
    if isinstance(config, TokenizerConfig):
        return dict.fromkeys(_MASKS, (config.bits,))
    blocks = [_block_prefix(index, config.depth, layout.block_chunks) for index in range(config.depth)]
    owners = ["text_proj_for_sos.ca", *(f"{block}.{part}" for block in blocks for part in ("sa", "ca"))]
    return {f"{owner}.zero_k_bias": (config.width,) for owner in owners}


def _describe_buffer(name: str, tensor: Tensor, source: str) -> OfficialBuffer:
    values = tuple(tensor.tolist()) if name in _MASKS and not tensor.is_meta else ()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return _parse(
        OfficialBuffer, {"dtype": dtype, "shape": tuple(tensor.shape), "values": values}, f"{name} in {source}"
    )


def _make_buffer(buffer: OfficialBuffer) -> Tensor:
    dtype = getattr(torch, buffer.dtype)
    return torch.tensor(buffer.values, dtype=dtype) if buffer.values else torch.zeros(buffer.shape, dtype=dtype)
