"""Optimizations chosen by name, applied to a pipeline from outside, and undone."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitvar.errors import UsageError
from bitvar.lora.layers import LoraSettings, adapter_tensors, add_adapter, save_adapter
from bitvar.nn.linear import Linear
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.optimizations import OPTIMIZATIONS, choose
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.reproduce import check_same_model, recorded_optimizations
from tests.support.tiny import tiny_transformer
from tests.unit.sampling.test_batch_invariance import rough_pipeline

EXACT = [kind.name for kind in OPTIMIZATIONS.values() if kind.exact and "cpu" in kind.devices and not kind.only_by_name]


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return rough_pipeline(tmp_path)


def drawn(pipe: InfinityPipeline) -> list[torch.Tensor]:
    return list(pipe("a red dog", seed=1, guidance_scale=2.0, output_type="bits").images)


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def names_of(*names: str, device: str = "cpu") -> list[str]:
    return [kind.name for kind in choose(names, device)]


def test_words_choose_by_device() -> None:
    assert names_of("auto") == names_of("exact") == EXACT
    assert names_of("off") == names_of() == []
    assert names_of("auto", device="cuda") == names_of("auto", device="mps") == []
    assert names_of("exact", "packed") == EXACT


def test_auto_copies_no_weights_that_memory_has_no_room_for(
    pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(parameter.nbytes for parameter in pipe.transformer.parameters())
    for memory, copied in ((4 * weights, True), (4 * weights - 4, False)):
        monkeypatch.setattr("bitvar.pipeline.optimizations.total_bytes", lambda memory=memory: memory)
        pipe.optimize("auto")
        assert pipe.optimizations == EXACT if copied else pipe.optimizations == EXACT[1:]
        pipe.optimize("exact")
        assert pipe.optimizations == EXACT
        pipe.optimize("auto", "packed")
        assert pipe.optimizations == EXACT
    assert EXACT[0] == "packed"


@pytest.mark.parametrize(
    ("names", "device", "message"),
    [
        (("pakced",), "cpu", "Did you mean|packed"),
        (("packed",), "cuda", "doesn't work on cuda"),
        (("off", "packed"), "cpu", "'off' was given with other"),
        (("graphs", "block-offload"), "cuda", "'graphs' and 'block-offload' exclude each other"),
    ],
)
def test_impossible_choices_are_refused(names: tuple[str, ...], device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(names, device)


def test_a_missing_kernel_is_no_error_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZATIONS["packed"], "available", staticmethod(lambda: False))
    assert "packed" not in names_of("exact")
    with pytest.raises(UsageError, match="lacks the kernels"):
        choose(("packed",), "cpu")


def test_a_loaded_pipeline_is_optimized_and_a_built_one_is_not(tiny_model: Path, pipe: InfinityPipeline) -> None:
    assert InfinityPipeline.from_pretrained(tiny_model, device="cpu").optimizations == EXACT
    assert InfinityPipeline.from_pretrained(tiny_model, device="cpu", fast="off").optimizations == []
    assert pipe.optimizations == []
    with pytest.raises(UsageError, match="optimization 'fastest'"):
        InfinityPipeline.from_pretrained(tiny_model, fast=["fastest"])


def test_off_leaves_no_trace(pipe: InfinityPipeline) -> None:
    before, weights = drawn(pipe), set(pipe.transformer.state_dict())
    pipe.optimize()
    assert pipe.optimizations == EXACT
    assert set(pipe.transformer.state_dict()) == weights
    pipe.optimize("off")
    assert pipe.optimizations == []
    assert not any("kernel" in vars(module) and module.kernel is not None for module in pipe.transformer.modules())
    assert same(drawn(pipe), before)


def test_a_refused_choice_changes_nothing(pipe: InfinityPipeline) -> None:
    pipe.optimize("packed")
    with pytest.raises(UsageError, match="optimization 'nothing'"):
        pipe.optimize("nothing")
    assert pipe.optimizations == ["packed"]


def test_no_change_while_a_call_runs(pipe: InfinityPipeline) -> None:
    stream = pipe.stream("a red dog", seed=1)
    next(stream)
    with pytest.raises(UsageError, match="Can't change the optimizations now"):
        pipe.optimize()
    stream.close()
    pipe.optimize()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"])
def test_a_copy_is_optimized_by_itself(pipe: InfinityPipeline, way: Any) -> None:
    pipe.optimize()
    expected = drawn(pipe)
    twin = way(pipe)
    assert twin.optimizations == EXACT
    assert same(drawn(twin), expected)
    twin.optimize("off")
    assert pipe.optimizations == EXACT
    assert any(module.kernel for module in pipe.transformer.modules() if isinstance(module, Linear))
    assert not any(module.kernel for module in twin.transformer.modules() if isinstance(module, Linear))


def test_saved_weights_are_the_plain_ones(pipe: InfinityPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "plain")
    pipe.optimize()
    drawn(pipe)
    pipe.save_pretrained(tmp_path / "fast")
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "fast" / file).read_bytes()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    model = tiny_transformer(width=64, depth=3)
    add_adapter(model, LoraSettings(rank=2), generator=torch.Generator().manual_seed(0))
    for tensor in adapter_tensors(model).values():
        nn.init.normal_(tensor, std=0.15, generator=torch.Generator().manual_seed(1))
    place = tmp_path_factory.mktemp("adapter")
    save_adapter(model, place / "lora", settings=LoraSettings(rank=2), base=None)
    return place / "lora"


@pytest.mark.parametrize("first", [True, False], ids=["optimized first", "adapted first"])
def test_adapters_take_effect(pipe: InfinityPipeline, adapter: Path, first: bool) -> None:
    """Loaded, weighted, fused and unloaded, an optimized pipeline draws what the plain one does."""
    twin = copy.deepcopy(pipe)
    steps: list[Callable[[InfinityPipeline], object]] = [
        lambda pipe: pipe.load_lora_weights(adapter),
        lambda pipe: pipe.set_adapters("default", 0.5),
        lambda pipe: pipe.fuse_lora(),
        lambda pipe: pipe.unfuse_lora(),
        lambda pipe: pipe.disable_lora(),
        lambda pipe: pipe.unload_lora_weights(),
    ]
    if first:
        twin.optimize()
    plain = [drawn(pipe)]
    for number, step in enumerate(steps):
        step(pipe)
        step(twin)
        if number == 0 and not first:
            twin.optimize()
        plain.append(drawn(pipe))
        assert same(drawn(twin), plain[-1])
    assert not same(plain[0], plain[1])
    assert not same(plain[1], plain[2])


def test_a_change_of_adapters_prepares_no_weights_again(pipe: InfinityPipeline, adapter: Path) -> None:
    pipe.optimize()
    pipe.load_lora_weights(adapter, "one")
    drawn(pipe)
    kernels = {name: module.kernel for name, module in pipe.transformer.named_modules() if isinstance(module, Linear)}
    packed = {name: dict(kernel._packed._kept) for name, kernel in kernels.items() if kernel is not None}
    assert any(packed.values())
    for change in (pipe.disable_lora, pipe.enable_lora, lambda: pipe.set_adapters("one", 0.5)):
        change()
        drawn(pipe)
    for name, module in pipe.transformer.named_modules():
        if packed.get(name):
            assert module.kernel is kernels[name]
            assert all(module.kernel._packed._kept[dtype] is form for dtype, form in packed[name].items())
    pipe.to(dtype="bf16")
    drawn(pipe)
    used = [kernel._packed._kept for kernel in kernels.values() if kernel is not None and kernel._packed._kept]
    assert used and all(form.source.dtype == torch.bfloat16 for kept in used for form in kept.values())


def test_moved_weights_are_prepared_again(pipe: InfinityPipeline) -> None:
    twin = copy.deepcopy(pipe)
    twin.optimize()
    drawn(twin)
    for dtype in ("bf16", "fp32"):
        assert same(drawn(twin.to(dtype=dtype)), drawn(pipe.to(dtype=dtype))) or dtype == "bf16"
    assert {kept for m in twin.transformer.modules() if isinstance(m, Linear) for kept in m.kernel._packed._kept} == {
        torch.float32
    }


def test_after_a_move_words_choose_again_and_names_refuse(
    pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands for an accelerator that the exact optimizations aren't made for."""
    monkeypatch.setattr("bitvar.pipeline.text_to_image.resolve_device", torch.device)
    pipe.optimize("packed")
    with pytest.raises(UsageError, match="'packed' doesn't work on meta"):
        pipe.to("meta")
    assert pipe.device.type == "cpu"
    pipe.optimize("auto")
    pipe.to("meta")
    assert pipe.optimizations == []
    assert not any(module.kernel for module in pipe.transformer.modules() if isinstance(module, Linear))


def test_threads_share_an_optimized_pipeline(pipe: InfinityPipeline) -> None:
    expected = drawn(pipe)
    pipe.optimize()
    with ThreadPoolExecutor(4) as threads:
        for bits in threads.map(lambda _: drawn(pipe), range(8)):
            assert same(bits, expected)


def test_a_record_names_what_its_bits_depend_on(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.optimize()
    plain = pipe("a red dog", seed=1).metadata[0]
    assert "optimizations" not in plain and recorded_optimizations(ImageRecord.of(plain)) == ("auto",)
    monkeypatch.setattr(OPTIMIZATIONS["folded"], "exact", False)
    pipe.optimize("folded")
    metadata = pipe("a red dog", seed=1).metadata[0]
    record = ImageRecord.of(metadata)
    assert recorded_optimizations(record) == ("folded",), "exactly what the image was made with, and nothing beside it"
    assert not any("optimizations" in note for note in check_same_model(record, pipe))
    pipe.optimize("off")
    assert "made with optimizations: folded; now: none; details may differ" in check_same_model(record, pipe)


def test_a_record_in_half_precision_names_all(pipe: InfinityPipeline) -> None:
    pipe.to(dtype="bf16")
    for names, expected in ((("exact",), tuple(EXACT)), (("off",), ("off",)), (("packed", "tiled-decode"), None)):
        pipe.optimize(*names)
        record = ImageRecord.of(pipe("a red dog", seed=1).metadata[0])
        assert recorded_optimizations(record) == (names if expected is None else expected)
        assert not any("optimizations" in note for note in check_same_model(record, pipe))
        pipe.optimize(*recorded_optimizations(record))
        assert pipe.recorded_optimizations == list(record.optimizations)
