"""Optimizations chosen by name, applied to a pipeline from outside, and undone."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.nn.linear import Linear
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.optimizations import OPTIMIZATIONS, choose
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.reproduce import check_same_model, recorded_optimizations
from tests.unit.sampling.test_batch_invariance import rough_pipeline

EXACT = [kind.name for kind in OPTIMIZATIONS.values() if kind.exact and "cpu" in kind.devices]


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


@pytest.mark.parametrize(
    ("names", "device", "message"),
    [
        (("pakced",), "cpu", "Did you mean|packed"),
        (("packed",), "cuda", "doesn't work on cuda"),
        (("off", "packed"), "cpu", "'off' was given with other"),
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


def test_a_record_names_lossy_ones_only(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.optimize()
    assert "optimizations" not in pipe("a red dog", seed=1).metadata[0]
    monkeypatch.setattr(OPTIMIZATIONS["packed"], "exact", False)
    metadata = pipe("a red dog", seed=1).metadata[0]
    assert metadata["optimizations"] == ["packed"]
    record = ImageRecord.of(metadata)
    assert recorded_optimizations(record) == ("auto", "packed")
    assert not any("optimizations" in note for note in check_same_model(record, pipe))
    pipe.optimize("off")
    assert "made with lossy optimizations: packed; now: none; details may differ" in check_same_model(record, pipe)
