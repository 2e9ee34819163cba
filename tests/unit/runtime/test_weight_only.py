"""Weights in 8 or 4 bits, and a cache and a text encoder in 8 bits: close to the plain model, and undone exactly."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitvar.errors import UsageError
from bitvar.nn.kv_cache import DecodingCache, KVCache, ScaleCache
from bitvar.nn.linear import Linear, linear_gelu
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.optimizations import choose
from bitvar.runtime import weight_only
from bitvar.runtime.int8_cache import Int8KVCache, Int8LayerCache
from bitvar.runtime.int8_text import Int8Text
from bitvar.runtime.optimization import Optimization
from bitvar.runtime.weight_only import GROUP, Int8Weights, WeightOnlyKernel, group_weights, restore_weights
from tests.unit.sampling.test_batch_invariance import rough_pipeline

LOSSY = ["int8-weights", "int4-weights", "int8-text", "int8-cache"]


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return rough_pipeline(tmp_path)


def drawn(pipe: InfinityPipeline, guidance: float | tuple[float, ...] = 2.0) -> list[Tensor]:
    options: Any = {"seed": [3, 4], "guidance_scale": guidance, "output_type": "bits"}
    return list(pipe(["a red dog", "two cats"], **options).images)


def changed(first: list[Tensor], second: list[Tensor]) -> float:
    """Share of the bits that differ."""
    different = sum(int((a != b).sum()) for a, b in zip(first, second, strict=True))
    return different / sum(a.numel() for a in first)


@pytest.mark.parametrize(("bits", "stored"), [(8, 8.5), (4, 4.5)])
def test_a_weight_is_off_by_half_a_step_of_its_group(bits: int, stored: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4 * GROUP)
    weight[0, :GROUP] *= 1000  # an outlier's group alone pays for it
    grouped = group_weights(weight, bits)
    assert grouped.num_bytes * 8 == stored * weight.numel()
    error = (restore_weights(grouped, torch.float32) - weight).abs().unflatten(1, (-1, GROUP)).amax(-1)
    groups = weight.unflatten(1, (-1, GROUP))
    step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
    assert (error <= 0.5 * step + 2e-3 * groups.abs().amax(-1)).all()  # and the rounding of fp16
    assert (error > 0.1 * step).all()


@pytest.mark.parametrize("inputs", [48, 15, 1])
def test_groups_fit_any_width(inputs: int) -> None:
    weight = torch.randn(7, inputs)
    for bits in (8, 4):
        restored = restore_weights(group_weights(weight, bits), torch.float32)
        assert restored.shape == weight.shape
        assert (restored - weight).abs().max() < 0.2


def test_equal_weights_are_kept_up_to_half_precision() -> None:
    for value in (0.0, 0.3):
        weight = torch.full((3, GROUP), value)
        torch.testing.assert_close(restore_weights(group_weights(weight, 4), torch.float32), weight, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_computes_with_its_restored_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(48, 80).requires_grad_(False), torch.randn(2, 19, 48).to(dtype)
    nn.init.normal_(layer.bias)
    plain = Linear(48, 80).requires_grad_(False)
    plain.weight.data = restore_weights(group_weights(layer.weight, 4), dtype)
    plain.bias.data = layer.bias.data
    layer.kernel = WeightOnlyKernel(4, torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(layer(x), plain(x))
        assert torch.equal(linear_gelu(layer, x), linear_gelu(plain, x))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_weights_that_change_are_rounded_again(copied: Callable[[Linear], Linear]) -> None:
    layer, x = Linear(48, 8, bias=False).requires_grad_(False), torch.randn(4, 48)
    layer.kernel = WeightOnlyKernel(8, torch.device("cpu"))
    with torch.no_grad():
        before = layer(x)
        twin = copied(layer)
        twin.weight.mul_(2)
        torch.testing.assert_close(twin(x), 2 * before, rtol=1e-3, atol=1e-3)
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("name", LOSSY)
def test_it_changes_few_bits_and_is_undone_exactly(pipe: InfinityPipeline, name: str) -> None:
    plain = drawn(pipe)
    pipe.optimize(name)
    assert pipe.lossy_optimizations == [name]
    assert changed(plain, drawn(pipe)) < (0.2 if name == "int4-weights" else 0.1)
    pipe.optimize("off")
    assert changed(plain, drawn(pipe)) == 0


def test_coarse_weights_change_bits(pipe: InfinityPipeline) -> None:
    plain = drawn(pipe)
    pipe.optimize("int4-weights")
    assert changed(plain, drawn(pipe)) > 0


def test_all_of_them_work_together(pipe: InfinityPipeline) -> None:
    plain = drawn(pipe, (2.0, 1.0, 1.0))
    pipe.optimize("exact", "int8-weights", "int8-text", "int8-cache", "sequential-guidance")
    assert changed(plain, drawn(pipe, (2.0, 1.0, 1.0))) < 0.1


def test_weights_that_stay_are_not_rounded_again(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.optimize("int8-weights", "int8-text")
    monkeypatch.setattr(weight_only, "group_weights", lambda *given: pytest.fail("rounded again"))
    pipe._optimizations.refresh()
    drawn(pipe)


@pytest.mark.parametrize("kind", [Int8Weights, Int8Text])
def test_integers_follow_the_model_to_another_device(pipe: InfinityPipeline, kind: type[Optimization]) -> None:
    """The meta device stands in for a card."""
    assert pipe.text_encoder is not None
    optimization = kind(pipe.transformer, pipe.tokenizer, pipe.text_encoder)
    optimization.apply()
    for model in (pipe.transformer, pipe.text_encoder.model):
        model.to("meta")
    optimization.refresh()
    layers = [*pipe.transformer.blocks.modules(), *pipe.text_encoder.model.modules()]
    kernels = [layer.kernel for layer in layers if isinstance(layer, Linear)]
    kernels += [vars(layer)["forward"].kernel for layer in layers if "forward" in vars(layer)]
    devices = {kernel.prepare(torch.empty(4, 4, device="meta")).codes.device.type for kernel in kernels if kernel}
    assert devices == {"meta"}


def test_saving_keeps_the_original_weights(pipe: InfinityPipeline, tmp_path: Path) -> None:
    plain = drawn(pipe)
    pipe.optimize("int8-weights", "int8-text")
    pipe.save_pretrained(tmp_path / "saved")
    assert changed(plain, drawn(InfinityPipeline.from_pretrained(tmp_path / "saved", fast="off"))) == 0


def test_a_copy_of_the_pipeline_draws_the_same(pipe: InfinityPipeline) -> None:
    pipe.optimize("int8-weights", "int8-text", "int8-cache")
    assert changed(drawn(pipe), drawn(copy.deepcopy(pipe))) == 0


@pytest.mark.parametrize("names", [("int8-weights", "int4-weights"), ("split-guidance", "sequential-guidance")])
def test_what_excludes_each_other_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        choose(names, "cuda")


def test_an_offloaded_text_encoder_is_refused(pipe: InfinityPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    offloaded = InfinityPipeline.from_pretrained(tmp_path / "saved", fast="off", offload_text=True)
    with pytest.raises(UsageError, match="leaves the device"):
        offloaded.optimize("int8-text")
    assert offloaded.optimizations == []


def test_the_cache_restores_what_was_stored_and_gives_the_new_scale_as_it_is() -> None:
    torch.manual_seed(0)
    shape, device = (2, 3, 4, 16), torch.device("cpu")
    cache = Int8KVCache.allocate(shape, capacity=5, device=device)
    plain = KVCache.allocate(shape, capacity=5, dtype=torch.float32, device=device)
    assert isinstance(cache, DecodingCache) and isinstance(plain, DecodingCache)
    assert isinstance(cache.layer(0, 0), ScaleCache)
    start = 0
    for length in (1, 4, 9):  # the last one lies beyond the capacity
        k, v = torch.randn(2, 3, 4, length, 16)
        found = cache.layer(1, start).extend(k, v)
        expected = plain.layer(1, start).extend(k, v)
        for new, known, given in zip(found, expected, (k, v), strict=True):
            assert torch.equal(new[:, :, start:], given)
            assert new.shape == known.shape
            torch.testing.assert_close(new, known, rtol=0, atol=0.5 * known.abs().max().item() / 127 + 1e-6)
        start += length
    assert cache.narrow(rows=2, capacity=5).rows == 2


def test_the_cache_takes_zeros_and_half_of_the_memory() -> None:
    layer = Int8LayerCache(torch.zeros(2, 1, 1, 3, 128, dtype=torch.int8), torch.zeros(2, 1, 1, 3, 1), 0)
    zeros = torch.zeros(1, 1, 2, 128)
    layer.extend(zeros, zeros)
    after = Int8LayerCache(layer.codes, layer.steps, 2).extend(zeros, zeros)
    assert not any(tensor.any() for tensor in after)
    shape, device = (4, 2, 16, 128), torch.device("cpu")
    half = KVCache.allocate(shape, capacity=50, dtype=torch.bfloat16, device=device).num_bytes
    assert Int8KVCache.allocate(shape, capacity=50, device=device).num_bytes < 0.52 * half
