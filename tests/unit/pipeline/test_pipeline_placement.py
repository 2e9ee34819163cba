"""A pipeline moved, cast, pickled and copied is the pipeline it was."""

import copy
import pickle
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from bitvar.errors import UsageError, WeightsError
from bitvar.lora.layers import LoraSettings, adapter_tensors, add_adapter, save_adapter
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import tiny_transformer
from tests.unit.sampling.test_batch_invariance import rough_pipeline


def drawn(pipe: InfinityPipeline) -> bytes:
    return pipe("a red dog", seed=1, guidance_scale=2.0).images[0].tobytes()


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return rough_pipeline(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("placement")
    rough_pipeline(place).save_pretrained(place / "tiny")
    return place / "tiny"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    model = tiny_transformer(width=64, depth=3)
    add_adapter(model, LoraSettings(rank=2), generator=torch.Generator().manual_seed(0))
    for tensor in adapter_tensors(model).values():
        torch.nn.init.normal_(tensor, std=0.5, generator=torch.Generator().manual_seed(1))
    place = tmp_path_factory.mktemp("adapter")
    save_adapter(model, place / "lora", settings=LoraSettings(rank=2), base=None)
    return place / "lora"


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("adapted", [False, True])
def test_cast_is_as_if_loaded_so(folder: Path, adapter: Path, dtype: str, adapted: bool) -> None:
    loaded = InfinityPipeline.from_pretrained(folder, dtype=dtype, device="cpu")
    cast = InfinityPipeline.from_pretrained(folder, dtype="fp32", device="cpu")
    if adapted:
        loaded.load_lora_weights(adapter)
        cast.load_lora_weights(adapter)
    assert cast.to("cpu", dtype) is cast
    for ours, theirs in (
        (cast.transformer.state_dict(), loaded.transformer.state_dict()),
        (cast.tokenizer.state_dict(), loaded.tokenizer.state_dict()),
        (cast.text_encoder.model.state_dict(), loaded.text_encoder.model.state_dict()),  # type: ignore[union-attr]
    ):
        assert {name: tensor.dtype for name, tensor in ours.items()} == {n: t.dtype for n, t in theirs.items()}
    assert drawn(cast) == drawn(loaded)
    assert cast("a dog", seed=1).metadata[0]["dtype"] == loaded("a dog", seed=1).metadata[0]["dtype"]


def test_a_dtype_alone_and_nothing_at_all(pipe: InfinityPipeline) -> None:
    before = drawn(pipe)
    assert drawn(pipe.to()) == before
    assert pipe.to(torch.bfloat16).transformer.dtype == torch.bfloat16
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.bfloat16)
    assert pipe.to("cpu").transformer.dtype == torch.bfloat16
    assert pipe.to(dtype="auto").transformer.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        *[("abacus", None), ("abacus", "bf16"), ("meta", None), ("cuda:99", None), (5, None), ([], None)],
        *[(None, "fp7"), ("cpu", "fp7"), (None, torch.int64), (None, 5), (None, [])],
        *[(torch.float16, "fp32"), (float("nan"), None)],
    ],
    ids=str,
)
def test_what_is_not_there_is_refused_and_nothing_moves(
    pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch, device: Any, dtype: Any
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(UsageError, match=r"(There is no device|Unknown dtype|The precision) [\s\S]*do:"):
        pipe.to(device, dtype)
    assert (pipe.transformer.dtype, pipe.tokenizer.dtype) == (torch.float32, torch.float32)


def test_weights_that_fp16_can_not_hold_are_refused_before_anything_moves(pipe: InfinityPipeline) -> None:
    with torch.no_grad():
        pipe.tokenizer.decoder.conv_in.weight.view(-1)[0] = 1e5
    with pytest.raises(WeightsError, match=r"overflow in fp16[\s\S]*65504[\s\S]*conv_in\.weight"):
        pipe.to(dtype="fp16")
    assert (pipe.transformer.dtype, pipe.tokenizer.dtype) == (torch.float32, torch.float32)


def test_fused_adapters_stay_where_they_are(pipe: InfinityPipeline, adapter: Path) -> None:
    before = drawn(pipe)
    pipe.load_lora_weights(adapter)
    pipe.fuse_lora()
    with pytest.raises(UsageError, match=r"fused adapters[\s\S]*unfuse_lora"):
        pipe.to(dtype="bf16")
    pipe.unfuse_lora()
    pipe.to(dtype="bf16").to(dtype="fp32").unload_lora_weights()
    assert len(drawn(pipe)) == len(before)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("adapters", ["none", "loaded", "fused"])
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"])
def test_a_copy_draws_the_same(pipe: InfinityPipeline, request: Any, used: bool, adapters: str, way: Any) -> None:
    if adapters != "none":
        pipe.load_lora_weights(request.getfixturevalue("adapter"))
    if adapters == "fused":
        pipe.fuse_lora()
    if used:
        drawn(pipe)
    twin = way(pipe)
    again = way(twin)
    expected = drawn(pipe)
    assert drawn(twin) == expected
    assert drawn(way(twin)) == drawn(again) == expected
    if adapters == "fused":
        twin.unfuse_lora()
    if adapters != "none":
        twin.unload_lora_weights()
        assert drawn(twin) != expected
        assert drawn(pipe) == expected  # the copy has weights of its own
