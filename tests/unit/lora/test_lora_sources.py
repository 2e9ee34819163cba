"""Adapters of other trainers, adapters out of bounds, and adapters that are deleted."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bitvar.cli.lora import load_adapters, load_adapters_of_record, read_option
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.file import PEFT_SETTINGS, PEFT_WEIGHTS, adapter_digest, find_adapter
from bitvar.lora.layers import load_adapter, lora_layers
from bitvar.pipeline import InfinityPipeline
from bitvar.weights.tensors import base_tensors
from tests.support.tiny import tiny_components
from tests.unit.lora.test_lora import delta, logits, rough

LAYERS = ("blocks.0.self_attention.qkv", "blocks.1.fc1")
ALPHA = {"blocks.0.self_attention.qkv": 4.0, "blocks.1.fc1": 1.0}
RANK = 2


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return InfinityPipeline(replace(tiny_components(tmp_path / "parts"), transformer=rough()))


def sizes(pipe: InfinityPipeline) -> dict[str, tuple[int, int]]:
    tensors = base_tensors(pipe.transformer)
    return {layer: (len(weight), weight[0].numel()) for layer in LAYERS for weight in (tensors[f"{layer}.weight"],)}


def matrices(pipe: InfinityPipeline) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return {
        layer: (
            0.2 * torch.randn(RANK, inputs, generator=generator),
            0.2 * torch.randn(outputs, RANK, generator=generator),
        )
        for layer, (outputs, inputs) in sizes(pipe).items()
    }


def kohya(pipe: InfinityPipeline, path: Path, change: Callable[[dict[str, Tensor]], Any] = lambda _: None) -> Path:
    tensors: dict[str, Tensor] = {}
    for layer, (a, b) in matrices(pipe).items():
        name = "lora_unet_" + layer.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA[layer])
    change(tensors)
    save_file(tensors, path, {"ss_network_module": "networks.lora", "ss_network_alpha": "4"})
    return path


def peft(pipe: InfinityPipeline, folder: Path, prefix: str = "base_model.model.", **settings: Any) -> Path:
    folder.mkdir()
    tensors: dict[str, Tensor] = {}
    for layer, (a, b) in matrices(pipe).items():
        tensors |= {f"{prefix}{layer}.lora_A.weight": a, f"{prefix}{layer}.lora_B.weight": b}
    save_file(tensors, folder / PEFT_WEIGHTS, {"format": "pt"})
    values = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 4, "alpha_pattern": {"fc1": 1}, "target_modules": ["qkv", "fc1"],
        "bias": "none", "use_dora": False, "use_rslora": False, "modules_to_save": None, "task_type": None,
        "init_lora_weights": True, "lora_dropout": 0.0, "base_model_name_or_path": "x", "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / PEFT_SETTINGS).write_text(json.dumps(values | settings))
    return folder


def expect(pipe: InfinityPipeline, layer: str) -> Tensor:
    a, b = matrices(pipe)[layer]
    return (ALPHA[layer] / RANK) * (b @ a).T


@pytest.mark.parametrize("trainer", ["kohya", "peft", "peft in a wrapper", "peft's file"])
def test_adapters_of_other_trainers_count_as_they_do_there(
    pipe: InfinityPipeline, tmp_path: Path, trainer: str
) -> None:
    wanted = {layer: expect(pipe, layer) for layer in LAYERS}
    if trainer == "kohya":
        source = kohya(pipe, tmp_path / "a.safetensors")
    else:
        wrapped = "base_model.model.transformer." if "wrapper" in trainer else "base_model.model."
        source = peft(pipe, tmp_path / "folder", wrapped)
        source = source / PEFT_WEIGHTS if "file" in trainer else source
    pipe.load_lora_weights(source, adapter_name="x")
    assert set(lora_layers(pipe.transformer)) == set(LAYERS)
    for layer in LAYERS:
        torch.testing.assert_close(delta(pipe, layer), wanted[layer], rtol=1e-4, atol=1e-4)
    load_adapters_of_record(pipe_again := InfinityPipeline(replace(pipe.components, transformer=rough())),
                             [str(source)], pipe._adapters.used())  # fmt: skip
    assert torch.equal(logits(pipe_again.transformer), logits(pipe.transformer))


def test_kohya_s_alpha_is_the_rank_where_none_is_given(pipe: InfinityPipeline, tmp_path: Path) -> None:
    def without(tensors: dict[str, Tensor]) -> None:
        del tensors["lora_unet_blocks_1_fc1.alpha"]

    wanted = expect(pipe, "blocks.1.fc1") * RANK
    pipe.load_lora_weights(kohya(pipe, tmp_path / "a.safetensors", without), adapter_name="x")
    torch.testing.assert_close(delta(pipe, "blocks.1.fc1"), wanted, rtol=1e-4, atol=1e-4)


K, P = "lora_unet_blocks_1_fc1", "base_model.model.blocks.1.fc1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"lora_unet_down_0_attn.lora_up.weight": torch.ones(3, 2)}), "down_0_attn.*no such layer"),
        (lambda t: t.update({"lora_te_text_model.lora_up.weight": torch.ones(3, 2)}), "lora_te_text_model.*not a name"),
        (lambda t: t.update({f"{K}.dora_scale": torch.ones(1)}), "dora_scale: not a name"),
        (lambda t: t.update({f"{K}.hada_w1_a": torch.ones(1)}), "hada_w1_a: not a name"),
        (lambda t: t.update({f"{K}.alpha": torch.tensor(math.nan)}), "alpha.*NaN or infinity"),
        (lambda t: t.update({f"{K}.alpha": torch.ones(2)}), "alpha is one number"),
        (lambda t: t.update({f"{K}.alpha": torch.tensor(1e30)}), "out of bounds"),
        (lambda t: t.update({f"{K}.lora_up.weight": torch.full((128, 2), 1e30)}), "out of bounds|shape"),
        (lambda t: t.update({f"{K}.lora_up.weight": torch.ones(128, 2, dtype=torch.int8)}), "torch.int8"),
        (lambda t: t.update({f"{K}.lora_up.weight": torch.ones(128, 2, dtype=torch.complex64)}), "torch.complex64"),
        (lambda t: t.update({f"{K}.lora_up.weight": torch.ones(128, 2, dtype=torch.bool)}), "torch.bool"),
        (lambda t: t.update({f"{K}.lora_up.weight": torch.full((128, 2), math.inf)}), "NaN or infinity"),
        (lambda t: t.update({f"{P}.lora_A.weight": torch.ones(2, 32)}), "twice|adapter_config.json"),
        (lambda t: t.update({"transformer.blocks.1.fc1.lora_A.weight": torch.ones(2, 32)}), "twice"),
        (lambda t: t.pop(f"{K}.lora_up.weight"), "lora_B.weight: missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    pipe: InfinityPipeline, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], words: str
) -> None:
    path = kohya(pipe, tmp_path / "a.safetensors", change)
    with pytest.raises(WeightsError, match=words):
        load_adapter(pipe.transformer, path)
    assert not lora_layers(pipe.transformer)


def test_a_layer_of_another_model_is_named_in_a_peft_folder(pipe: InfinityPipeline, tmp_path: Path) -> None:
    folder = peft(pipe, tmp_path / "p", "base_model.model.unet.")
    with pytest.raises(WeightsError, match=r"base_model\.model\.unet\.blocks\.1\.fc1.*no such layer"):
        load_adapter(pipe.transformer, folder)


def test_a_peft_file_without_its_settings_is_refused(pipe: InfinityPipeline, tmp_path: Path) -> None:
    folder = peft(pipe, tmp_path / "p")
    (folder / PEFT_SETTINGS).unlink()
    with pytest.raises(WeightsError, match=r"adapter_config\.json beside"):
        load_adapter(pipe.transformer, folder)


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"use_rslora": True}, {"r": 3}, {"modules_to_save": ["head"]}]
)
def test_more_than_plain_lora_is_refused(pipe: InfinityPipeline, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        load_adapter(pipe.transformer, peft(pipe, tmp_path / "p", **settings))


def test_the_identity_of_a_peft_adapter_is_of_its_settings_too(pipe: InfinityPipeline, tmp_path: Path) -> None:
    one = adapter_digest(find_adapter(peft(pipe, tmp_path / "one")))
    other = adapter_digest(find_adapter(peft(pipe, tmp_path / "other", lora_alpha=8)))
    assert one != other


# Bounds


@pytest.mark.parametrize("weight", ["1e30", "-1e30", "nan", "inf", "-inf", "100.5", "1e400"])
def test_a_weight_out_of_bounds_is_refused_before_anything_is_loaded(
    pipe: InfinityPipeline, tmp_path: Path, weight: str
) -> None:
    good = str(kohya(pipe, tmp_path / "a.safetensors"))
    with pytest.raises(UsageError, match=r"weight of --lora[\s\S]*-100 to 100"):
        load_adapters(pipe, [good, f"x:{weight}"])
    assert pipe.get_list_adapters() == {}


@pytest.mark.parametrize("weight", [1e30, math.nan, math.inf, -101, 10**400, True])
def test_a_weight_out_of_bounds_is_refused_in_python(pipe: InfinityPipeline, tmp_path: Path, weight: Any) -> None:
    pipe.load_lora_weights(kohya(pipe, tmp_path / "a.safetensors"), adapter_name="x")
    before = logits(pipe.transformer)
    with pytest.raises(UsageError, match="-100 to 100"):
        pipe._adapters.choose(["x"], [weight])
    with pytest.raises(UsageError, match="-100 to 100"):
        pipe._adapters.fuse(weight)
    assert torch.equal(logits(pipe.transformer), before)


@pytest.mark.parametrize("weight", ["-100", "100", "0", "0.8", "-2"])
def test_a_weight_within_bounds_is_taken(weight: str) -> None:
    assert read_option(f"x:{weight}") == ("x", float(weight))


def test_an_adapter_that_overflows_the_model_s_precision_is_refused(pipe: InfinityPipeline, tmp_path: Path) -> None:
    def large(tensors: dict[str, Tensor]) -> None:
        tensors[f"{K}.lora_up.weight"] = torch.full_like(tensors[f"{K}.lora_up.weight"], 1e5)
        tensors[f"{K}.lora_down.weight"] *= 1e-5

    path = kohya(pipe, tmp_path / "a.safetensors", large)
    pipe.transformer.half()
    with pytest.raises(WeightsError, match=r"overflows[\s\S]*float16"):
        load_adapter(pipe.transformer, path)
    assert not lora_layers(pipe.transformer)


# Deleting


def test_a_deleted_adapter_is_gone_and_the_others_go_on(pipe: InfinityPipeline, tmp_path: Path) -> None:
    plain = logits(pipe.transformer)
    path = kohya(pipe, tmp_path / "a.safetensors")
    for name in ("one", "two", "three"):
        pipe.load_lora_weights(path, adapter_name=name)
    pipe.set_adapters(["one"], [0.5])
    alone = logits(pipe.transformer)
    pipe.set_adapters(["one", "two"], [0.5, 2.0])
    pipe.delete_adapters("two")
    assert (pipe.get_active_adapters(), pipe.get_list_adapters()) == (["one"], {"transformer": ["one", "three"]})
    assert torch.equal(logits(pipe.transformer), alone)
    with pytest.raises(UsageError, match="two"):
        pipe.delete_adapters(["three", "two"])
    pipe.delete_adapters(["one"])
    assert torch.equal(logits(pipe.transformer), plain)
    pipe.load_lora_weights(path, adapter_name="one")
    pipe.set_adapters(["one"], [0.5])
    assert torch.equal(logits(pipe.transformer), alone)
    pipe.delete_adapters(["one", "three"])
    assert pipe.get_list_adapters() == {}
    assert not lora_layers(pipe.transformer)
    assert torch.equal(logits(pipe.transformer), plain)


def test_fused_adapters_are_not_deleted(pipe: InfinityPipeline, tmp_path: Path) -> None:
    pipe.load_lora_weights(kohya(pipe, tmp_path / "a.safetensors"), adapter_name="x")
    pipe.fuse_lora()
    with pytest.raises(UsageError, match="fused"):
        pipe.delete_adapters("x")
