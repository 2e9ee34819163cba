"""Low-rank adapters (Hu et al., arXiv 2106.09685) in a model: creating, saving and loading them with PEFT.

An adapted layer computes `x W^T + (alpha / rank) x A^T B^T` with `A` of shape (rank, inputs) and `B` of shape (outputs,
rank). Switching between adapters is the task of `lora/adapters.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bitvar.config import Config, unknown
from bitvar.errors import UsageError, WeightsError, install_hint
from bitvar.lora.file import AdapterFile, LoraBase, find_adapter, read_adapter, write_adapter
from bitvar.lora.names import PREFIX
from bitvar.nn.linear import Linear

if TYPE_CHECKING:
    from peft.tuners.lora import Linear as AdaptedLinear

__all__ = [
    "LoraBase",
    "LoraSettings",
    "adapter_tensors",
    "add_adapter",
    "load_adapter",
    "lora_layers",
    "save_adapter",
    "valid_name",
]


class LoraSettings(Config):
    """Settings of an adapter.

    Attributes:
        rank: Rank of the two matrices.
        alpha: Numerator of the adapter's scale, `alpha / rank`.
        targets: Layers to adapt in every block, by their names within the block.
    """

    rank: int = Field(default=16, ge=1, le=1 << 12)
    alpha: float = Field(default=16.0, gt=0, le=1e6, allow_inf_nan=False)
    targets: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        default=(
            "self_attention.qkv",
            "self_attention.proj",
            "cross_attention.q",
            "cross_attention.kv",
            "cross_attention.proj",
            "fc1",
            "fc2",
        ),
        min_length=1,
        max_length=64,
    )


def add_adapter(model: nn.Module, settings: LoraSettings, *, name: str = "default", generator: torch.Generator) -> None:
    """Add a new adapter for training. It has no effect yet (`B` is zero), and all other parameters are frozen.

    Its tensors are fp32 on the layers' device; they are used in the dtype of the activations.

    Args:
        model: Model with blocks, such as `InfinityTransformer`.
        settings: Settings of the adapter.
        name: Name of the adapter in the model.
        generator: CPU generator that draws `A`, uniformly within 1 / sqrt(inputs), layer by layer in the model's order.

    Raises:
        UsageError: for a target that no block has, an invalid name or one in use, or if PEFT is missing.
    """
    _check_name(model, name)
    matches = {layer: re.fullmatch(r"blocks\.\d+\.(.+)", layer) for layer in _linear_layers(model)}
    known = sorted({match[1] for match in matches.values() if match})
    for target in settings.targets:
        if target not in known:
            raise UsageError(unknown("target of a LoRA", target, known))
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, linear in _linear_layers(model).items():
        match = matches[layer]
        if match and match[1] in settings.targets:
            bound, device = linear.in_features**-0.5, linear.weight.device
            a = torch.empty(settings.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
            pairs[layer] = a.to(device), torch.zeros(linear.out_features, settings.rank, device=device)
    _inject(model, pairs, dict.fromkeys(pairs, settings.alpha), name=name)
    for parameter in adapter_tensors(model, name).values():
        parameter.requires_grad_(True)


def adapter_tensors(model: nn.Module, name: str = "default") -> dict[str, nn.Parameter]:
    """Return an adapter's parameters by their names in a file, not copied; empty if there is no such adapter."""
    tensors: dict[str, nn.Parameter] = {}
    for layer, adapted in lora_layers(model).items():
        if name in adapted.lora_A:
            for part, module in (("A", adapted.lora_A[name]), ("B", adapted.lora_B[name])):
                assert isinstance(module, Linear)
                tensors[f"{PREFIX}.{layer}.lora_{part}.weight"] = module.weight
    return tensors


def lora_layers(model: nn.Module) -> "dict[str, AdaptedLinear]":
    """Return the layers that have an adapter, by their names in the plain model."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}  # type: ignore[misc]


def valid_name(name: str) -> bool:
    """Whether PEFT can use a name for an adapter. It becomes the name of a submodule."""
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", name)) and "lora_" not in name and not hasattr(nn.ModuleDict(), name)


def save_adapter(
    model: nn.Module,
    folder: Path,
    *,
    name: str = "default",
    settings: LoraSettings,
    base: LoraBase | None,
    dtype: torch.dtype | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter atomically, as a folder of one safetensors file and its digest.

    Args:
        model: Model with the adapter.
        folder: Folder to write.
        name: Name of the adapter in the model.
        settings: Settings that the adapter was added with.
        base: Model that the adapter was trained for; None if it has no name.
        dtype: Data type to store; None for the adapter's own.
        texts: Further text files of the folder, by name.
    """
    tensors = {key: tensor.to(dtype or tensor.dtype) for key, tensor in adapter_tensors(model, name).items()}
    assert tensors, f"the model has no adapter {name!r}"
    write_adapter(tensors, folder, rank=settings.rank, alpha=settings.alpha, base=base, texts=texts)


def load_adapter(
    model: nn.Module, source: str | Path, *, name: str = "default", revision: str | None = None
) -> AdapterFile:
    """Add an adapter from a file for inference: frozen, in the layers' dtype, and the only active one.

    The model is left unchanged if any part of the adapter can't be used.

    Args:
        model: Model to adapt.
        source: Safetensors file, folder that contains one, or hub id `owner/name`.
        name: Name to give the adapter.
        revision: Branch, tag or commit of a hub id.

    Raises:
        UsageError: for a missing source, an invalid name or one in use, or if PEFT is missing.
        WeightsError: for a damaged file, another format, or tensors that don't fit the model, which are named.
    """
    _check_name(model, name)
    layers = _linear_layers(model)
    file = read_adapter(find_adapter(source, revision), layers)
    pairs = {layer: (a.to(layers[layer].weight), b.to(layers[layer].weight)) for layer, (a, b) in file.pairs.items()}
    for layer, pair in pairs.items():
        if not all(bool(tensor.isfinite().all()) for tensor in pair):
            why = f"its values for {layer} exceed the range of {layers[layer].weight.dtype}, the model's dtype"
            raise WeightsError(f"The adapter {source} overflows.", why, "load the model in fp32 or bf16")
    _inject(model, pairs, file.alphas, name=name)
    return file


def _linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Return the model's own linear layers, adapted or not, by their names in the plain model."""
    return {
        name.removesuffix(".base_layer"): layer
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and ".lora_" not in name
    }


def _check_name(model: nn.Module, name: str) -> None:
    if not valid_name(name):
        why = "a name consists of letters, digits, - and _, without lora_, and is no attribute of PyTorch's modules"
        raise UsageError(f"An adapter can't be called {name!r}.", why, "choose another name, such as style")
    if adapter_tensors(model, name):
        why = "the model already has an adapter of that name"
        raise UsageError(f"The adapter name {name!r} is in use.", why, "choose another, or unload that one")


def _inject(
    model: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]], alphas: Mapping[str, float], *, name: str
) -> None:
    """Wrap layers with PEFT and give them frozen `A` and `B`, as the only active adapter.

    PEFT gets the model inside a container, since it would mistake `model.config` for a configuration of transformers.
    It creates no tensors itself (`low_cpu_mem_usage`), so nothing is drawn from the global generator.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("Adapters need PEFT.", "the package peft is not installed", install_hint("lora")) from None
    names = {layer: re.escape(f"{PREFIX}.{layer}") for layer in pairs}
    config = LoraConfig(
        target_modules="|".join(names.values()),
        rank_pattern={f"^{names[layer]}": len(a) for layer, (a, _) in pairs.items()},
        alpha_pattern={f"^{names[layer]}": alpha for layer, alpha in alphas.items()},  # type: ignore[misc]
    )
    inject_adapter_in_model(config, nn.ModuleDict({PREFIX: model}), adapter_name=name, low_cpu_mem_usage=True)
    adapted = lora_layers(model)
    for layer, pair in pairs.items():
        adapted[layer].lora_A[name], adapted[layer].lora_B[name] = (_linear(weight) for weight in pair)
        adapted[layer].cast_input_dtype_enabled = False  # the layers compute in the dtype of their inputs
    model.requires_grad_(False)


def _linear(weight: Tensor) -> Linear:
    with torch.device("meta"):  # draws no random numbers
        linear = Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight)
    return linear
