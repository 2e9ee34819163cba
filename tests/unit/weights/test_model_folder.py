"""Model folders: whole or absent, what was saved comes back, and nothing altered or swapped is loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bitvar.errors import UsageError, WeightsError
from bitvar.files import atomic_path
from bitvar.sampling.params import SamplingParams
from bitvar.tokenizer import InfinityTokenizer
from bitvar.transformer import InfinityTransformer
from bitvar.weights import model_folder as folder_module
from bitvar.weights.digests import MANIFEST, atomic_folder, digest, verify_folder, write_manifest
from bitvar.weights.identity import check_bits, identify
from bitvar.weights.model_folder import (
    Components,
    load_component,
    load_folder,
    save_component,
    save_folder,
)
from bitvar.weights.tensors import read_tensors, save_tensors
from tests.support.tiny import tiny_components, tiny_text_encoder, tiny_tokenizer, tiny_transformer

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Components:
    return load_folder(folder, dtype=dtype, device=CPU)


def equal(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def components(tmp_path: Path) -> Components:
    """Without a text encoder, which takes longest."""
    return replace(tiny_components(tmp_path / "made"), text_encoder=None)


@pytest.fixture
def saved(components: Components, tmp_path: Path) -> Path:
    save_folder(components, tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_comes_back(tmp_path: Path) -> None:
    before = tiny_components(tmp_path)
    before.index = before.index.model_copy(
        update={"defaults": SamplingParams(guidance_scale=(1.0, 2.5, 3.0), top_p=0.97)}
    )
    save_folder(before, tmp_path / "model")
    after = load(tmp_path / "model")
    assert equal(before.transformer.state_dict(), after.transformer.state_dict())
    assert equal(before.tokenizer.state_dict(), after.tokenizer.state_dict())
    assert after.transformer.config == before.transformer.config
    assert after.tokenizer.config == before.tokenizer.config
    assert (after.index, after.card) == (before.index, before.card)
    assert before.text_encoder is not None
    assert after.text_encoder is not None
    prompts = ["a red dog", "two cats on a blue square"]
    assert torch.equal(before.text_encoder.encode(prompts).features, after.text_encoder.encode(prompts).features)
    assert {"README.md", "model_index.json", MANIFEST} < names(tmp_path / "model")


def test_no_text_encoder_is_no_text_encoder(saved: Path) -> None:
    assert load(saved).text_encoder is None
    assert not (saved / "text_encoder").exists()


def test_precision_is_chosen_at_load(saved: Path) -> None:
    loaded = load(saved, torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.transformer.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in loaded.tokenizer.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in loaded.transformer.parameters())


@pytest.mark.parametrize("model", [tiny_transformer(seed=3), tiny_tokenizer(seed=3)], ids=["transformer", "tokenizer"])
def test_a_component_comes_back(model: InfinityTransformer | InfinityTokenizer, tmp_path: Path) -> None:
    save_component(model, tmp_path / "part")
    cls: Any = type(model)
    assert equal(model.state_dict(), load_component(cls, tmp_path / "part").state_dict())


def test_large_weights_are_sharded(tmp_path: Path) -> None:
    tensors = {f"layer.{i}": torch.randn(100) for i in range(10)} | {"half": torch.randn(7).half()}
    save_tensors(tensors, tmp_path, max_shard_bytes=1000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 5
    assert all(sum(t.nbytes for t in load_file(shard).values()) <= 1000 for shard in shards)
    assert equal(tensors, read_tensors(tmp_path))


def test_a_sharded_model_loads(components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "save_tensors", partial(save_tensors, max_shard_bytes=50_000))
    save_folder(components, tmp_path / "model")
    assert "transformer/model.safetensors.index.json" in names(tmp_path / "model")
    assert equal(components.transformer.state_dict(), load(tmp_path / "model").transformer.state_dict())
    next((tmp_path / "model" / "transformer").glob("model-00002-*")).unlink()
    with pytest.raises(WeightsError, match=r"model-00002-.*: missing"):
        load(tmp_path / "model")


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [alter, truncate])
@pytest.mark.parametrize("name", ["transformer/model.safetensors", "image_tokenizer/config.json"])
def test_an_altered_file_is_named_with_both_digests(damage: Callable[[Path], None], name: str, saved: Path) -> None:
    before = digest(saved / name)
    damage(saved / name)
    with pytest.raises(WeightsError) as caught:
        load(saved)
    assert f"{name}: sha256 {digest(saved / name)}, expected {before}" in str(caught.value)


def test_missing_and_unlisted_files_are_named(saved: Path) -> None:
    (saved / "image_tokenizer" / "model.safetensors").rename(saved / "transformer" / "extra.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(saved)
    assert "image_tokenizer/model.safetensors: missing" in str(caught.value)
    assert f"transformer/extra.safetensors: not in {MANIFEST}" in str(caught.value)


@pytest.mark.parametrize(
    "manifest",
    [None, "{", "[]", '{"x": 1}'],
)
def test_an_unreadable_manifest(manifest: str | None, saved: Path) -> None:
    (saved / MANIFEST).unlink()
    if manifest is not None:
        (saved / MANIFEST).write_text(manifest)
    with pytest.raises(WeightsError, match=MANIFEST):
        verify_folder(saved)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="bitvar convert"):
        load(tmp_path)


def test_another_tokenizer_is_refused_by_name(components: Components, saved: Path, tmp_path: Path) -> None:
    other = tiny_tokenizer(seed=1)
    identity = identify("other-tokenizer", other.state_dict())
    index = components.index.model_copy(update={"tokenizer": identity})
    save_folder(replace(components, tokenizer=other, index=index), tmp_path / "other")
    for name in ("model.safetensors", "identity.json"):
        (tmp_path / "other" / "image_tokenizer" / name).replace(saved / "image_tokenizer" / name)
    write_manifest(saved)
    with pytest.raises(WeightsError) as caught:
        load(saved)
    message = str(caught.value)
    assert "The tokenizer 'other-tokenizer' does not belong to this transformer" in message
    assert "trained with 'tiny-tokenizer'" in message
    assert components.index.tokenizer.sha256 in message
    assert identity.sha256 in message


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"bits": 5}, "model.bits=16"), ({"code_norms": (2.0, 1.0)}, "model.code_norms=[1.0]")],
)
def test_a_transformer_speaks_its_tokenizers_codes(changes: dict[str, Any], setting: str) -> None:
    transformer = tiny_transformer(patch_size=2, bits=16).config
    check_bits(transformer, tiny_tokenizer().config)
    with pytest.raises(UsageError, match="does not fit") as caught:
        check_bits(transformer.model_copy(update=changes), tiny_tokenizer().config)
    assert f"set {setting}" in str(caught.value)


def test_an_identity_is_of_names_shapes_dtypes_and_bytes() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    variants = [{"a": tensor}, {"b": tensor}, {"a": tensor.reshape(2, 3)}, {"a": tensor.half()}, {"a": tensor + 1}]
    assert len({identify("name", tensors).sha256 for tensors in variants}) == len(variants)
    assert identify("name", variants[0]) == identify("name", {"a": tensor.clone()})
    lengths = [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)]
    assert len({identify("name", variants[0], each).sha256 for each in lengths}) == len(lengths)
    assert identify("name", variants[0], lengths[0]) == identify("name", variants[0])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("transformer/config.json", "patch_size", "patchsize", "did you mean 'patch_size'"),
        ("image_tokenizer/config.json", "res_blocks", "res_block", "did you mean 'res_blocks'"),
        ("model_index.json", "defaults", "default", "did you mean 'defaults'"),
        ("model_index.json", "temperature", "temprature", "did you mean 'temperature'"),
    ],
)
def test_an_unknown_key(file: str, old: str, new: str, message: str, saved: Path) -> None:
    path = saved / file
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    write_manifest(saved)
    with pytest.raises(WeightsError) as caught:
        load(saved)
    assert message in str(caught.value)


def test_weights_that_do_not_fit_are_named(saved: Path) -> None:
    path = saved / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_scales": 5}))
    write_manifest(saved)
    with pytest.raises(WeightsError, match="scale_embedding"):
        load(saved)


class InterruptedSaveError(Exception):
    pass


def test_an_interrupted_save_leaves_the_old_folder(
    components: Components, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: digest(saved / name) for name in names(saved)}

    def interrupt(*_: object, **__: object) -> None:
        raise InterruptedSaveError

    monkeypatch.setattr(folder_module, "save_tensors", interrupt)
    with pytest.raises(InterruptedSaveError):
        save_folder(components, saved)
    assert {name: digest(saved / name) for name in names(saved)} == before
    assert [path.name for path in saved.parent.iterdir() if "partial" in path.name] == []
    load(saved)


def test_a_save_replaces_the_whole_folder(components: Components, saved: Path) -> None:
    before = names(saved)
    save_folder(replace(components, card="# new\n"), saved)
    assert names(saved) == before
    assert load(saved).card == "# new\n"


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(InterruptedSaveError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise InterruptedSaveError
    assert list(tmp_path.iterdir()) == []
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(InterruptedSaveError), atomic_folder(tmp_path / "deep" / "folder") as temporary:
        (temporary / "file").write_text("half")
        raise InterruptedSaveError
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_text_encoder_of_an_unknown_kind(tmp_path: Path, components: Components) -> None:
    save_folder(replace(components, text_encoder=tiny_text_encoder(tmp_path)), tmp_path / "model")
    settings = tmp_path / "model" / "text_encoder" / "bitvar.json"
    settings.write_text(settings.read_text().replace("minilm", "clip"))
    write_manifest(tmp_path / "model")
    with pytest.raises(WeightsError, match="Unknown text encoder 'clip'"):
        load(tmp_path / "model")
