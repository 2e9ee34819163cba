"""Adapters: made, saved, loaded, weighed, fused and taken off; what an image says of them; every refusal."""

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.file import BASE_KEY, SETTINGS_KEY, WEIGHTS
from bitvar.lora.layers import (
    LoraBase,
    LoraSettings,
    adapter_tensors,
    add_adapter,
    load_adapter,
    lora_layers,
    save_adapter,
)
from bitvar.nn.linear import Linear
from bitvar.pipeline import InfinityPipeline
from bitvar.transformer import InfinityTransformer
from bitvar.weights.digests import digest
from bitvar.weights.tensors import base_tensors
from tests.support.tiny import SCHEDULES, TEXT_WIDTH, tiny_components, tiny_transformer

LAYER = "transformer.blocks.0.self_attention.qkv"


def rough(*, seed: int = 1) -> InfinityTransformer:
    """A tiny transformer whose every part has a say."""
    model = tiny_transformer()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def trained(model: InfinityTransformer, name: str, *, seed: int, settings: LoraSettings) -> None:
    """An adapter that is not zero any more."""
    generator = torch.Generator().manual_seed(seed)
    add_adapter(model, settings, name=name, generator=generator)
    for parameter in adapter_tensors(model, name).values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two`: of other ranks, alphas and layers."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        settings = LoraSettings(rank=2, alpha=4) if name == "one" else LoraSettings(rank=3, alpha=2, targets=("fc1",))
        model = rough()
        trained(model, name, seed=seed, settings=settings)
        save_adapter(
            model, folder / name, name=name, settings=settings, base=LoraBase(name="tiny", transformer="0" * 64)
        )
    return folder


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return InfinityPipeline(replace(tiny_components(tmp_path), transformer=rough()))


def logits(model: InfinityTransformer, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    features, mask = torch.randn(2, 5, TEXT_WIDTH, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    condition = TextCondition(features, mask, torch.zeros(2, dtype=torch.bool))
    schedule = model.config.all_schedules()[0]
    inputs = [torch.randn(2, 4, *grid, generator=generator) for grid in SCHEDULES[0]["grids"][1:]]
    with torch.inference_mode():
        return model(condition, inputs, schedule, dtype=dtype)


def delta(pipe: InfinityPipeline, layer: str) -> Tensor:
    """What the active adapters add to a layer's output, of the identity."""
    adapted = lora_layers(pipe.transformer)[layer]
    x = torch.eye(adapted.in_features)
    return adapted(x) - adapted.base_layer(x)


def bits(pipe: InfinityPipeline) -> list[Tensor]:
    return list(pipe("a red dog", seed=1, output_type="bits").images)


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def rewrite(
    source: Path, target: Path, *, tensors: Callable[[dict[str, Tensor]], Any] | None = None, **settings: Any
) -> Path:
    """A copy of an adapter's file with other tensors, and its settings updated, or without any for `settings=None`."""
    held = load_file(source / WEIGHTS)
    with safe_open(source / WEIGHTS, framework="pt") as file:
        header = file.metadata()
    if tensors is not None:
        tensors(held)
    if settings == {"settings": None}:
        header = {"format": "pt"}
    elif settings:
        values = json.loads(header[SETTINGS_KEY]) | {f"transformer.{key}": value for key, value in settings.items()}
        header[SETTINGS_KEY] = json.dumps(values)
    save_file(held, target, metadata=header)
    return target


# Making one


def test_a_new_adapter_changes_nothing_to_the_bit() -> None:
    model, plain = rough(), rough()
    add_adapter(model, LoraSettings(rank=2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(model), logits(plain))


def test_a_new_adapter_is_drawn_from_its_generator_alone() -> None:
    drawn = []
    for seed in (0, 0, 1):
        model, state = rough(), torch.random.get_rng_state()
        add_adapter(model, LoraSettings(rank=2), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        drawn.append(adapter_tensors(model))
    key = f"{LAYER}.lora_A.weight"
    assert torch.equal(drawn[0][key], drawn[1][key])
    assert not torch.equal(drawn[0][key], drawn[2][key])
    assert 0 < drawn[0][key].abs().max() <= 32**-0.5
    assert not torch.equal(drawn[0][key], drawn[0][key.replace("blocks.0", "blocks.1")])


def test_only_the_adapter_is_trained() -> None:
    model = rough().requires_grad_(True)
    add_adapter(model, LoraSettings(rank=2), generator=torch.Generator().manual_seed(0))
    wanted = {id(parameter) for parameter in adapter_tensors(model).values()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == wanted
    adapted = lora_layers(model)["blocks.0.fc1"]
    adapted(torch.randn(3, 32)).sum().backward()
    assert adapted.lora_B["default"].weight.grad.any()
    assert adapted.base_layer.weight.grad is None


def test_targets_are_layers_of_the_blocks() -> None:
    model = rough()
    add_adapter(model, LoraSettings(rank=2, targets=("fc1",)), generator=torch.Generator())
    assert list(lora_layers(model)) == ["blocks.0.fc1", "blocks.1.fc1"]  # not text.fc1
    whole = rough()
    linear = [name for name, layer in whole.named_modules() if isinstance(layer, Linear)]
    add_adapter(whole, LoraSettings(), generator=torch.Generator())
    assert list(lora_layers(whole)) == [name for name in linear if name.startswith("blocks.")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": ("fc3",)}, "did you mean 'fc"),
        ({"targets": ("text.fc1",)}, "Unknown target of a LoRA"),
        ({"targets": ()}, "'targets'"),
        ({"rank": 0}, "'rank'"),
        ({"alpha": 0}, "'alpha'"),
        ({"alpha": float("inf")}, "'alpha'"),
        ({"ranks": 1}, "did you mean 'rank'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    model = rough()
    with pytest.raises(UsageError, match=words):
        add_adapter(model, LoraSettings.parse(settings, source="a test"), generator=torch.Generator())
    assert lora_layers(model) == {}


@pytest.mark.parametrize("name", ["", "a.b", "a b", "my_lora_2", "train", "keys", "\u00e9"])
def test_names_that_can_not_be_kept_are_refused(adapters: Path, name: str) -> None:
    model = rough()
    with pytest.raises(UsageError, match="can't be called"):
        load_adapter(model, adapters / "one", name=name)
    with pytest.raises(UsageError, match="can't be called"):
        add_adapter(model, LoraSettings(), name=name, generator=torch.Generator())


def test_peft_is_asked_for_when_it_is_missing(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r'pip install -e ".*\[lora\]"'):
        load_adapter(rough(), adapters / "one")


# Files


def test_names_in_a_file_are_those_of_diffusers(adapters: Path) -> None:
    tensors = load_file(adapters / "two" / WEIGHTS)
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "transformer.blocks.0.fc1.lora_A.weight": (3, 32),
        "transformer.blocks.0.fc1.lora_B.weight": (256, 3),
        "transformer.blocks.1.fc1.lora_A.weight": (3, 32),
        "transformer.blocks.1.fc1.lora_B.weight": (256, 3),
    }
    with safe_open(adapters / "two" / WEIGHTS, framework="pt") as file:
        header = file.metadata()
    assert json.loads(header[SETTINGS_KEY]) == {
        "transformer.peft_type": "LORA",
        "transformer.r": 3,
        "transformer.lora_alpha": 2.0,
        "transformer.target_modules": ["blocks.0.fc1", "blocks.1.fc1"],
    }
    assert json.loads(header[BASE_KEY]) == {"name": "tiny", "transformer": "0" * 64}


def test_an_adapter_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model, again = rough(), rough()
    settings = LoraSettings(rank=2, alpha=3)
    trained(model, "style", seed=5, settings=settings)
    base = LoraBase(name="tiny", transformer="1" * 64)
    save_adapter(model, tmp_path / "style", name="style", settings=settings, base=base)
    file = load_adapter(again, tmp_path / "style", name="other")
    assert file.base == base
    assert same(list(adapter_tensors(model, "style").values()), list(adapter_tensors(again, "other").values()))
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(model), logits(rough()))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_the_adapter_loaded_last_is_the_only_active_one_on_every_layer(adapters: Path) -> None:
    model = rough()
    for name in ("one", "two"):  # two has no part in fc2
        load_adapter(model, adapters / name, name=name)
    x = torch.randn(3, 256)
    assert torch.equal(model.get_submodule("blocks.0.fc2")(x), rough().get_submodule("blocks.0.fc2")(x))


def test_the_computation_is_the_one_of_the_paper(adapters: Path) -> None:
    model = rough()
    load_adapter(model, adapters / "one")
    held = load_file(adapters / "one" / WEIGHTS)
    adapted, x = lora_layers(model)["blocks.0.self_attention.qkv"], torch.randn(5, 32)
    low_rank = 4 / 2 * x @ held[f"{LAYER}.lora_A.weight"].T @ held[f"{LAYER}.lora_B.weight"].T
    torch.testing.assert_close(adapted(x), x @ adapted.base_layer.weight.T + low_rank)


def test_without_settings_alpha_is_the_rank_of_each_layer(adapters: Path, tmp_path: Path) -> None:
    def of_other_ranks(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.blocks.1.fc1.lora_A.weight"] = torch.ones(5, 32)
        tensors["transformer.blocks.1.fc1.lora_B.weight"] = torch.ones(256, 5)

    path = rewrite(adapters / "two", tmp_path / "bare.safetensors", tensors=of_other_ranks, settings=None)
    model = rough()
    file = load_adapter(model, path)
    assert (file.base, file.alphas) == (None, {"blocks.0.fc1": 3.0, "blocks.1.fc1": 5.0})
    adapted, x = lora_layers(model)["blocks.1.fc1"], torch.randn(2, 32)
    torch.testing.assert_close(adapted(x) - adapted.base_layer(x), (5 * x.sum(1, keepdim=True)).expand(2, 256))


def test_patterns_give_layers_alphas_of_their_own(adapters: Path, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {r"blocks\.1\.fc1": 3}, "alpha_pattern": {"^blocks.1.fc1": 6}}
    file = load_adapter(rough(), rewrite(adapters / "two", tmp_path / "a.safetensors", **patterns, r=3))
    assert file.alphas == {"blocks.0.fc1": 2.0, "blocks.1.fc1": 6.0}


def test_settings_of_other_makers_that_change_nothing_are_accepted(adapters: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    usual = json.loads(json.dumps(LoraConfig(r=3, lora_alpha=2, target_modules=["fc1"]).to_dict(), default=list))
    path = rewrite(adapters / "two", tmp_path / "a.safetensors", **usual)
    assert load_adapter(rough(), path).alphas["blocks.0.fc1"] == 2.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"of_the_future": 3}, "of_the_future=3"),
        ({"alpha_pattern": {".*fc1": 3}}, r"the pattern '\.\*fc1'"),
        ({"rank_pattern": {"blocks.0.fc2": 3}}, "the pattern 'blocks.0.fc2'"),
        ({"r": 4}, "has rank 3, but its settings say 4"),
        ({"rank_pattern": {"fc1": 5}}, "has rank 3, but its settings say 5"),
        ({"r": "many"}, "'r'"),
        ({"lora_alpha": None}, "'lora_alpha'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha'"),
        ({"alpha_pattern": {"fc1": float("inf")}}, "alpha_pattern"),
    ],
    ids=str,
)
def test_settings_that_are_not_understood_are_refused(
    adapters: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    model, path = rough(), rewrite(adapters / "two", tmp_path / "a.safetensors", **settings)
    with pytest.raises(WeightsError, match=words):
        load_adapter(model, path)
    assert lora_layers(model) == {}


@pytest.mark.parametrize("key", [SETTINGS_KEY, BASE_KEY])
@pytest.mark.parametrize("value", ["{", "[1]", "3", '{"x": ' * 100_000], ids=["cut", "list", "number", "deep"])
def test_headers_that_hold_no_settings_are_refused(adapters: Path, tmp_path: Path, key: str, value: str) -> None:
    save_file(load_file(adapters / "two" / WEIGHTS), tmp_path / "a.safetensors", metadata={key: value})
    with pytest.raises(WeightsError, match=r"why:[\s\S]*do:"):
        load_adapter(rough(), tmp_path / "a.safetensors")


FC1 = "transformer.blocks.0.fc1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.update({"blocks.0.fc1.lora_A.weight": torch.ones(3, 32)}),
            r"fc1\.lora_A\.weight: not a name",
        ),
        (lambda t: t.update({f"{FC1}.alpha": torch.ones(1)}), r"fc1\.alpha: not a name"),
        (lambda t: t.update({"transformer.blocks.9.fc1.lora_A.weight": torch.ones(3, 32)}), r"9\.fc1.*no such layer"),
        (lambda t: t.update({"transformer.start.lora_A.weight": torch.ones(3, 32)}), "no such layer"),
        (lambda t: t.pop(f"{FC1}.lora_B.weight"), "lora_B.weight: missing"),
        (lambda t: t.pop(f"{FC1}.lora_A.weight"), "lora_A.weight: missing"),
        (lambda t: t.update({f"{FC1}.lora_A.weight": torch.ones(3, 31)}), r"\(3, 31\).*expected \(rank, 32\)"),
        (lambda t: t.update({f"{FC1}.lora_B.weight": torch.ones(256, 2)}), r"\(256, 2\)"),
        (lambda t: t.update({f"{FC1}.lora_A.weight": torch.ones(32)}), r"\(32,\)"),
        (lambda t: t.update({f"{FC1}.lora_A.weight": torch.ones(0, 32)}), r"\(0, 32\)"),
        (lambda t: t.update({f"{FC1}.lora_A.weight": torch.full((3, 32), torch.nan)}), "NaN or infinity"),
        (lambda t: t.update({f"{FC1}.lora_A.weight": torch.ones(3, 32, dtype=torch.int8)}), "dtype is torch.int8"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    adapters: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], words: str
) -> None:
    model, path = rough(), rewrite(adapters / "two", tmp_path / "a.safetensors", tensors=change)
    with pytest.raises(WeightsError, match=rf"{words}[\s\S]*made for tiny \(transformer 000000000000\)"):
        load_adapter(model, path)
    assert lora_layers(model) == {}


def test_every_misfit_is_named(adapters: Path) -> None:
    model = tiny_transformer(width=64, num_heads=4)
    with pytest.raises(WeightsError) as caught:
        load_adapter(model, adapters / "one")
    assert all(f"blocks.{i}.{name}" in str(caught.value) for i in range(2) for name in LoraSettings().targets)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


def test_pickles_are_refused_under_every_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.bin", "a.pt", "a.pth", "a.safetensors", f"folder/{WEIGHTS}", "only/pytorch_lora_weights.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(WeightsError, match=r"why:[\s\S]*do:"):
            load_adapter(rough(), tmp_path / name)
    with pytest.raises(WeightsError, match="other formats are not read"):
        load_adapter(rough(), tmp_path / "only")
    assert "must not run" not in capsys.readouterr().out


def test_folders_are_verified_and_may_name_their_file_as_they_like(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path = rewrite(adapters / "two", tmp_path / "other" / "watercolour.safetensors")
    load_adapter(rough(), tmp_path / "other")  # no digests listed
    path.with_name("second.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match=r"it has: second\.safetensors, watercolour\.safetensors"):
        load_adapter(rough(), tmp_path / "other")
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in (adapters / "two").iterdir():
        (altered / file.name).write_bytes(file.read_bytes())
    rewrite(adapters / "two", altered / WEIGHTS, r=3, lora_alpha=3)
    with pytest.raises(WeightsError, match="not the ones it was saved with"):
        load_adapter(rough(), altered)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.safetensors", "a/nowhere.safetensors"])
def test_an_adapter_that_is_not_there(source: str) -> None:
    with pytest.raises(UsageError, match="There is no adapter"):
        load_adapter(rough(), source)


def test_a_hub_id_is_downloaded(adapters: Path, pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(adapters / "one")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pipe.load_lora_weights("someone/style", revision="v2")
    assert asked == [("someone/style", "v2")]
    assert pipe("a dog", seed=1).metadata[0]["lora"][0]["source"] == "someone/style"


def test_a_base_is_known_by_its_folder(pipe: InfinityPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    base = LoraBase.of_folder(tmp_path / "model")
    assert base.name == "tiny"
    loaded = InfinityPipeline.from_pretrained(tmp_path / "model")
    assert loaded.components.transformer_digest == base.transformer != ""
    assert base.transformer != loaded.components.digest


def test_an_adapter_of_another_model_is_spoken_of(pipe: InfinityPipeline, adapters: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    loaded = InfinityPipeline.from_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"made for another model[\s\S]*tiny \(transformer 000000000000\)"):
        loaded.load_lora_weights(adapters / "one")
    model, settings = rough(), LoraSettings(rank=2)
    trained(model, "own", seed=0, settings=settings)
    save_adapter(model, tmp_path / "own", name="own", settings=settings, base=LoraBase.of_folder(tmp_path / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.load_lora_weights(tmp_path / "own", "own")


# Precision


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_low_rank_part_is_computed_in_the_dtype_of_the_activations(
    adapters: Path, weights: torch.dtype, dtype: torch.dtype
) -> None:
    model = rough().to(weights)
    load_adapter(model, adapters / "one")
    assert {tensor.dtype for tensor in adapter_tensors(model).values()} == {weights}
    adapted = lora_layers(model)["blocks.0.fc1"]
    seen = []
    for part in (adapted.lora_A["default"], adapted.lora_B["default"]):
        part.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    assert adapted(torch.randn(2, 3, 32, dtype=dtype)).dtype == dtype
    assert seen == [(dtype, dtype)] * 2


def test_bf16_stays_near_fp32(adapters: Path) -> None:
    exact, half = rough(), rough().bfloat16()
    for model in (exact, half):
        load_adapter(model, adapters / "one")
    plain = logits(rough())
    moved = (logits(exact) - plain).abs().mean()
    assert (logits(half, torch.bfloat16) - logits(exact)).abs().mean() < 0.3 * moved


# Switching


def test_a_loaded_adapter_counts_alone_and_more_can_be_chosen(pipe: InfinityPipeline, adapters: Path) -> None:
    assert (pipe.get_active_adapters(), pipe.get_list_adapters()) == ([], {})
    results = [bits(pipe)]
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, adapter_name=name)
        assert pipe.get_active_adapters() == [name]
        results.append(bits(pipe))
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]}
    both = {}
    for names in (["one"], ["two"], ["one", "two"]):
        pipe.set_adapters(names)
        assert pipe.get_active_adapters() == names
        both[tuple(names)] = delta(pipe, "blocks.0.fc1")
    torch.testing.assert_close(both["one", "two"], both["one",] + both["two",])
    pipe.set_adapters("one")
    assert not any(parameter.requires_grad for parameter in pipe.transformer.parameters())
    assert same(bits(pipe), results[1])
    pipe.set_adapters([])
    assert same(bits(pipe), results[0])
    assert not same(results[0], results[1]) and not same(results[1], results[2])


def test_weights_scale_linearly(pipe: InfinityPipeline, adapters: Path) -> None:
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, name)
    unit = {}
    for name in ("one", "two"):
        pipe.set_adapters(name)
        unit[name] = delta(pipe, "blocks.1.fc1")
    for first, second in ((0.5, 2.0), (-1.0, 0.0)):
        pipe.set_adapters(["one", "two"], [first, second])
        torch.testing.assert_close(delta(pipe, "blocks.1.fc1"), first * unit["one"] + second * unit["two"])
    pipe.set_adapters(["one", "two"], 0.25)
    torch.testing.assert_close(delta(pipe, "blocks.1.fc1"), 0.25 * (unit["one"] + unit["two"]))
    pipe.set_adapters(["one", "two"])  # no weight is 1, whatever was before
    torch.testing.assert_close(delta(pipe, "blocks.1.fc1"), unit["one"] + unit["two"])


@pytest.mark.parametrize(
    ("names", "weights", "words"),
    [
        ("three", None, "did you mean 'one'|Unknown adapter"),
        (["one", "two"], [1.0], "1 weights for 2 adapters"),
        (["one", "one"], None, "name each once"),
        ("one", float("nan"), "is nan"),
        (["one", "two"], [1.0, float("inf")], "is inf"),
    ],
    ids=str,
)
def test_bad_choices_change_nothing(
    pipe: InfinityPipeline, adapters: Path, names: Any, weights: Any, words: str
) -> None:
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, name)
    before = bits(pipe)
    with pytest.raises(UsageError, match=words):
        pipe.set_adapters(names, weights)
    assert pipe.get_active_adapters() == ["two"]
    assert same(bits(pipe), before)


def test_a_failed_load_changes_nothing(pipe: InfinityPipeline, adapters: Path, tmp_path: Path) -> None:
    pipe.load_lora_weights(adapters / "one", "one")
    before = bits(pipe)
    bad = rewrite(adapters / "two", tmp_path / "a.safetensors", use_dora=True)
    with pytest.raises(WeightsError):
        pipe.load_lora_weights(bad, "two")
    with pytest.raises(UsageError, match="'one' is in use"):
        pipe.load_lora_weights(adapters / "two", "one")
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    assert same(bits(pipe), before)


def test_adapters_can_be_switched_off_and_on(pipe: InfinityPipeline, adapters: Path) -> None:
    plain = bits(pipe)
    pipe.load_lora_weights(adapters / "one", "one")
    changed = bits(pipe)
    pipe.disable_lora()
    assert same(bits(pipe), plain)
    assert "lora" not in pipe("a dog", seed=1).metadata[0]
    pipe.load_lora_weights(adapters / "two", "two")  # stays off
    pipe.set_adapters("one")
    assert same(bits(pipe), plain)
    pipe.enable_lora()
    assert same(bits(pipe), changed)


def test_unloading_brings_the_model_back_to_the_bit(pipe: InfinityPipeline, adapters: Path) -> None:
    plain, before = logits(pipe.transformer), {name: id(p) for name, p in pipe.transformer.named_parameters()}
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, name)
    pipe.set_adapters(["one", "two"], [0.7, 0.3])
    pipe.fuse_lora(lora_scale=0.6)
    pipe.unfuse_lora()
    pipe.disable_lora()
    pipe.unload_lora_weights()
    assert torch.equal(logits(pipe.transformer), plain)
    assert {name: id(p) for name, p in pipe.transformer.named_parameters()} == before
    assert (pipe.get_active_adapters(), pipe.get_list_adapters()) == ([], {})
    pipe.load_lora_weights(adapters / "one", "one")  # begins anew, enabled
    assert not torch.equal(logits(pipe.transformer), plain)


# Fusing


def test_fused_is_unfused_but_for_rounding_and_comes_back_to_the_bit(pipe: InfinityPipeline, adapters: Path) -> None:
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, name)
    pipe.set_adapters(["one", "two"], [0.35, 0.5])
    doubled = logits(pipe.transformer)
    pipe.set_adapters(["one", "two"], [0.7, 1.0])
    loose = logits(pipe.transformer)
    pipe.fuse_lora()
    assert not torch.equal(logits(pipe.transformer), loose)  # it is another computation
    torch.testing.assert_close(logits(pipe.transformer), loose, atol=1e-5, rtol=1e-5)
    pipe.unfuse_lora()
    assert torch.equal(logits(pipe.transformer), loose)
    pipe.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(logits(pipe.transformer), doubled, atol=1e-5, rtol=1e-5)
    pipe.unfuse_lora()
    assert torch.equal(logits(pipe.transformer), loose)


def test_what_would_be_unclear_is_refused_while_fused(pipe: InfinityPipeline, adapters: Path) -> None:
    with pytest.raises(UsageError, match="nothing to fuse"):
        pipe.fuse_lora()
    with pytest.raises(UsageError, match="nothing to unfuse"):
        pipe.unfuse_lora()
    pipe.load_lora_weights(adapters / "one", "one")
    with pytest.raises(UsageError, match="lora_scale is nan"):
        pipe.fuse_lora(lora_scale=float("nan"))
    pipe.disable_lora()
    with pytest.raises(UsageError, match="nothing to fuse"):
        pipe.fuse_lora()
    pipe.enable_lora()
    pipe.fuse_lora()
    fused = bits(pipe)
    for refused in (
        pipe.fuse_lora,
        pipe.unload_lora_weights,
        pipe.disable_lora,
        pipe.enable_lora,
        lambda: pipe.set_adapters("one"),
        lambda: pipe.load_lora_weights(adapters / "two", "two"),
    ):
        with pytest.raises(UsageError, match="are fused"):
            refused()
    assert same(bits(pipe), fused)


def test_a_fusion_that_overflows_changes_nothing(pipe: InfinityPipeline, adapters: Path) -> None:
    pipe.transformer.half()
    plain = base_tensors(pipe.transformer)
    plain["blocks.0.self_attention.qkv.weight"].fill_(torch.finfo(torch.float16).max)
    before = {key: tensor.clone() for key, tensor in plain.items()}
    pipe.load_lora_weights(adapters / "one", "one")
    with pytest.raises(WeightsError, match="Can't fuse"):
        pipe.fuse_lora(lora_scale=100)
    assert all(torch.equal(tensor, before[key]) for key, tensor in base_tensors(pipe.transformer).items())
    pipe.fuse_lora(lora_scale=1)  # and nothing is left in the way


def test_a_saved_model_holds_no_adapter_unless_it_is_fused(
    pipe: InfinityPipeline, adapters: Path, tmp_path: Path
) -> None:
    plain = logits(pipe.transformer)
    pipe.load_lora_weights(adapters / "one", "one")
    pipe.save_pretrained(tmp_path / "loose")
    pipe.fuse_lora()
    pipe.save_pretrained(tmp_path / "fused")
    assert torch.equal(logits(InfinityPipeline.from_pretrained(tmp_path / "loose", fast="off").transformer), plain)
    fused = InfinityPipeline.from_pretrained(tmp_path / "fused", fast="off")
    assert torch.equal(logits(fused.transformer), logits(pipe.transformer))
    assert fused.get_list_adapters() == {}
    for name in ("loose", "fused"):
        assert set(load_file(tmp_path / name / "transformer" / "model.safetensors")) == set(rough().state_dict())


# Images


def test_a_image_says_which_adapters_made_it(pipe: InfinityPipeline, adapters: Path) -> None:
    assert "lora" not in pipe("a dog", seed=1).metadata[0]
    for name in ("one", "two"):
        pipe.load_lora_weights(adapters / name, name)
    pipe.set_adapters(["two", "one"], [0.5, 1.0])
    sums = {name: digest(adapters / name / WEIGHTS) for name in ("one", "two")}
    expected = [
        {"name": "two", "weight": 0.5, "source": None, "sha256": sums["two"], "fused": False},
        {"name": "one", "weight": 1.0, "source": None, "sha256": sums["one"], "fused": False},
    ]
    assert json.loads(json.dumps(pipe("a dog", seed=1).metadata[0]["lora"])) == expected
    pipe.fuse_lora(lora_scale=0.5)
    fused = pipe("a dog", seed=1).metadata[0]["lora"]
    assert [(entry["weight"], entry["fused"]) for entry in fused] == [(0.25, True), (0.5, True)]
