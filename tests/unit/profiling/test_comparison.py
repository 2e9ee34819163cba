"""Comparing two settings in one run: pairs, order, and what the figures must say of themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.nn.linear import channels_last
from bitvar.profiling import comparison, generation
from bitvar.profiling.comparison import Comparison, Ratio, Side, compare, paired_ratios
from bitvar.profiling.generation import GenerationSetting, RunTimings, random_pipeline, threads, time_call
from bitvar.runtime.placement import DTYPES
from bitvar.tokenizer import TOKENIZER_PRESETS, InfinityTokenizer
from bitvar.transformer import PRESETS
from tests.support.live_tensors import LiveTensors
from tests.support.tiny import tiny_pipeline, tiny_tokenizer, tiny_transformer


@pytest.fixture
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "125M", tiny_transformer(max_text_tokens=32).config)
    monkeypatch.setitem(TOKENIZER_PRESETS, "d32", tiny_tokenizer().config)


def test_a_ratio_is_the_median_of_pairs() -> None:
    first = [{"scales_s": s, "text_s": 1e-6, "scale_9_s": 1.0} for s in (2.0, 6.0, 3.0, 4.0, 10.0)]
    second = [{"scales_s": s, "text_s": 1e-6} for s in (1.0, 2.0, 3.0, 1.0, 2.0)]
    assert paired_ratios(first, second) == {"scales_s": Ratio(3.0, 2.0, 4.0)}


def side(**changes: Any) -> Side:
    return replace(Side(GenerationSetting(), 2, "float32", "cpu", [], {"total_s": 1.0}, {}), **changes)


@pytest.mark.parametrize(
    ("ratio", "others", "says"),
    [
        (Ratio(1.3, 1.29, 1.31), 0.02, []),
        (Ratio(1.3, 1.29, 1.31), 0.6, ["0.60 of"]),
        (Ratio(1.3, 1.29, 1.31), None, ["unknown"]),
        (Ratio(1.3, 1.1, 1.5), 0.0, ["spread widely: half of them lie within 1.10 to 1.50"]),
        (Ratio(1.0, 0.99, 1.01), 0.0, ["No difference"]),
        (Ratio(1.0, 0.7, 1.4), 1.0, ["busy", "spread", "No difference"]),
    ],
    ids=str,
)
def test_a_disturbed_or_empty_comparison_says_so(ratio: Ratio, others: float | None, says: list[str]) -> None:
    remarks = Comparison((side(), side()), {"total_s": ratio}, 5, others).remarks
    assert len(remarks) == len(says)
    assert all(words in remark for words, remark in zip(says, remarks, strict=True))


def test_pairs_alternate_in_order_and_share_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[float | None, int]] = []

    def record(pipeline: Any, num_images: int, guidance: float | None, *, seed: int, **rest: Any) -> RunTimings:
        calls.append((guidance, seed))
        return RunTimings(0.0, (float(seed + 1) * (guidance or 1.0),), 1.0)

    loaded: list[GenerationSetting] = []
    monkeypatch.setattr(comparison, "time_call", record)
    monkeypatch.setattr(GenerationSetting, "load", lambda self: loaded.append(self) or tiny_pipeline_once())
    found = compare((GenerationSetting(guidance=2.0), GenerationSetting(guidance=1.0)), pairs=3, roofline=False)
    assert calls == [(2.0, 0), (1.0, 0), (2.0, 1), (1.0, 1), (1.0, 2), (2.0, 2), (2.0, 3), (1.0, 3)]
    assert len(loaded) == 1  # both load the same
    assert found.ratios["scale_1_s"] == Ratio(2.0, 2.0, 2.0)
    calls.clear()
    compare((GenerationSetting(dtype="bf16"), GenerationSetting(dtype="fp32")), pairs=2, roofline=False)
    assert len(loaded) == 3


_ONE: list[Any] = []


def tiny_pipeline_once() -> Any:
    return _ONE[0]


@pytest.fixture(autouse=True)
def one_pipeline(tmp_path: Path) -> None:
    _ONE[:] = [tiny_pipeline(tmp_path)]


def test_seconds_are_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "time_call", lambda *_, **__: RunTimings(2.0, (4.0, 6.0), 8.0))
    monkeypatch.setattr(GenerationSetting, "load", lambda self: tiny_pipeline_once())
    found = compare((GenerationSetting(num_images=2), GenerationSetting()), pairs=2, roofline=False)
    assert found.sides[0].seconds["total_s"] == 10 and found.sides[1].seconds["total_s"] == 20
    assert found.ratios["total_s"].median == 0.5


@pytest.mark.parametrize("together", [True, False])
def test_rates_are_operations_over_seconds(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitvar.profiling.roofline.Kernel.fastest_seconds", lambda kernel, device: kernel.flops / 8e9)
    pipeline = tiny_pipeline_once()
    setting = GenerationSetting(guidance=3.0, num_images=2, batch_invariant=not together)
    seconds = {f"scale_{k}_s": 0.5 for k in (1, 2, 3)} | {"scales_s": 1.5, "decode_s": 1.0, "total_s": 2.5}
    rates = comparison.measured_rates(pipeline, setting, seconds)
    assert rates.keys() == seconds.keys()
    assert all(rate.attainable == pytest.approx(8e9) for rate in rates.values())
    guided = rates["scale_3_s"].achieved
    plain = comparison.measured_rates(pipeline, replace(setting, guidance=1.0), seconds)["scale_3_s"].achieved
    assert guided == pytest.approx(2 * plain)
    parts = sum(rates[f"scale_{k}_s"].achieved for k in (1, 2, 3)) * 0.5 + rates["decode_s"].achieved
    assert rates["total_s"].achieved == pytest.approx(parts / 2.5)


def test_a_call_is_timed_with_the_pipelines_own_optimizations(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline_once()
    pipeline.optimize("off")
    seen: list[Any] = []
    plain = generation.InfinityPipeline.stream

    def spy(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(self._optimizations)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(generation.InfinityPipeline, "stream", spy)
    timings = time_call(pipeline, 1, 1.0, seed=0)
    assert seen == [pipeline._optimizations]
    assert timings.text > 0 and len(timings.scales) == 3
    assert type(pipeline.text_encoder).__name__ != "_TimedTextEncoder"  # the pipeline itself is as before


def test_threads_that_would_freeze_the_machine_are_refused() -> None:
    before = torch.get_num_threads()
    with pytest.raises(UsageError, match="5000000 threads are too many"), threads(5_000_000):
        pass
    assert torch.get_num_threads() == before


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    with threads(None) as count:
        assert count == before
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_preset_is_built_in_its_own_precision_and_always_the_same(dtype: str) -> None:
    torch.manual_seed(5)
    one = random_pipeline("125M", "d32", dtype=dtype, device="cpu")
    weights = [parameter for part in (one.transformer, one.tokenizer) for parameter in part.parameters()]
    assert {parameter.dtype for parameter in weights} == {DTYPES[dtype]}
    drawn = torch.rand(())
    other = random_pipeline("125M", "d32", dtype=dtype, device="cpu")
    torch.manual_seed(5)
    assert drawn == torch.rand(())  # nobody else's random numbers are used
    for a, b in zip((one.transformer, one.tokenizer), (other.transformer, other.tokenizer), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert one("a red circle", seed=1).images


def test_random_weights_take_no_more_than_their_own_memory() -> None:
    with torch.device("meta"):
        module = InfinityTokenizer(tiny_tokenizer().config)
    with LiveTensors(module.parameters()) as live:
        generation._assign_random_weights(module, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert live.peak == live.now == sum(parameter.nbytes for parameter in module.parameters())


@pytest.mark.usefixtures("tiny_presets")
def test_a_preset_has_the_layout_of_a_loaded_model() -> None:
    built = random_pipeline("125M", "d32", device="cpu").tokenizer
    laid_out = channels_last(tiny_tokenizer())
    assert [p.stride() for p in built.parameters()] == [p.stride() for p in laid_out.parameters()]
    assert not any(parameter.requires_grad for parameter in built.parameters())
