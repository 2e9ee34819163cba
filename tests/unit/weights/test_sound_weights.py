"""Weights that no model can have are refused wherever they become one: at load, and by `bitvar convert`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitvar.errors import WeightsError
from bitvar.finite import cast_weights, require_sound_weights
from bitvar.text import load_text_encoder
from bitvar.tokenizer import InfinityTokenizer
from bitvar.weights.digests import write_manifest
from bitvar.weights.model_folder import load_component, load_folder
from bitvar.weights.official.convert import convert_to_folder, convert_tokenizer
from bitvar.weights.tensors import read_tensors
from tests.unit.weights.test_convert import official_tokenizer, official_transformer, write_pair


def put(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[-1] = value
        return changed

    return change


UNSOUND: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (put(float("nan")), "NaN or infinite"),
    "infinity": (put(float("inf")), "NaN or infinite"),
    "minus infinity": (put(float("-inf")), "NaN or infinite"),
    "all NaN": (lambda t: torch.full_like(t, float("nan")), "NaN or infinite"),
    "int8": (lambda t: t.to(torch.int8), "int8"),
    "uint8": (lambda t: t.abs().to(torch.uint8), "uint8"),
    "int64": (lambda t: t.to(torch.int64), "int64"),
    "bool": (lambda t: t.to(torch.bool), "bool"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "float8"),
    "float8 of the other kind": (lambda t: t.to(torch.float8_e5m2), "float8"),
}
PARTS = ("transformer", "image_tokenizer", "text_encoder")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", list(UNSOUND))
def test_every_part_of_a_model_is_looked_at(name: str, part: str, tiny_model: Path, tmp_path: Path) -> None:
    change, why = UNSOUND[name]
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    key = sorted(key for key, tensor in tensors.items() if tensor.ndim == 2 or part == "image_tokenizer")[-1]
    save_file(tensors | {key: change(tensors[key])}, path)
    write_manifest(folder)
    with pytest.raises(WeightsError, match=why) as caught:
        load_folder(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert key in str(caught.value)


@pytest.mark.parametrize("name", list(UNSOUND))
def test_a_tokenizer_alone_is_looked_at(name: str, tiny_model: Path, tmp_path: Path) -> None:
    change, why = UNSOUND[name]
    folder = Path(shutil.copytree(tiny_model / "image_tokenizer", tmp_path / "mine"))
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {"encoder.conv_in.weight": change(tensors["encoder.conv_in.weight"])}, folder / "model.safetensors"
    )
    for read in (read_tensors, lambda path: load_component(InfinityTokenizer, path)):
        with pytest.raises(WeightsError, match=why):
            read(folder)


@pytest.mark.parametrize("name", list(UNSOUND))
def test_convert_looks_at_both_files(name: str, tmp_path: Path) -> None:
    change, _ = UNSOUND[name]
    transformer, tokenizer = write_pair(tmp_path / "in")
    tensors = official_transformer()
    torch.save(tensors | {"head.weight": change(tensors["head.weight"])}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError):
        convert_to_folder(tmp_path / "bad.pth", tokenizer, tmp_path / "model")
    tensors = official_tokenizer()
    key = "decoder.conv_out.conv.weight"
    torch.save(tensors | {key: change(tensors[key])}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError):
        convert_to_folder(transformer, tmp_path / "bad.pth", tmp_path / "model")
    with pytest.raises(WeightsError):
        convert_tokenizer(tmp_path / "bad.pth", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [1e6, -70_000.0])
def test_overflow_in_fp16_is_refused_with_what_fits(kind: torch.dtype, value: float, tmp_path: Path) -> None:
    tensors = {name: t.to(kind) for name, t in official_tokenizer(buffers=False).items()}
    key = "decoder.conv_out.conv.weight"
    torch.save(tensors | {key: put(value)(tensors[key])}, tmp_path / "large.pth")
    with pytest.raises(WeightsError, match=r"overflow in fp16[\s\S]*decoder.conv_out[\s\S]*--dtype bf16"):
        convert_tokenizer(tmp_path / "large.pth", tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    for dtype in (None, torch.float32, torch.bfloat16):
        folder = convert_tokenizer(tmp_path / "large.pth", tmp_path / f"new-{dtype}", dtype=dtype)
        assert load_component(InfinityTokenizer, folder)


@pytest.mark.parametrize("part", PARTS)
def test_overflow_at_load_is_refused(part: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = folder / part / "model.safetensors"
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    key = sorted(tensors)[0]
    save_file(tensors | {key: put(1e5)(tensors[key])}, path)
    write_manifest(folder)
    load_folder(folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    with pytest.raises(WeightsError, match=r"overflow in fp16[\s\S]*--dtype bf16"):
        load_folder(folder, dtype=torch.float16, device=torch.device("cpu"))


def test_fp64_that_no_precision_holds() -> None:
    with pytest.raises(WeightsError, match="no precision"):
        cast_weights({"a": torch.tensor([1e300], dtype=torch.float64)}, "x", dtype=torch.float32)
    with pytest.raises(WeightsError, match="--dtype fp32"):
        cast_weights({"a": torch.tensor([3.4e38], dtype=torch.float64)}, "x", dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sound_weights_pass(dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.randn(3, 4).to(dtype),
        "empty": torch.zeros(0, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
    }
    require_sound_weights(tensors, "x")
    assert cast_weights(tensors, "x").keys() == tensors.keys()


def test_the_integers_that_bert_keeps_are_no_weights(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model / "text_encoder", tmp_path / "mine"))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"embeddings.position_ids": torch.arange(512)[None]}, folder / "model.safetensors")
    assert load_text_encoder(folder).encode(["a dog"]).features.isfinite().all()


@pytest.mark.parametrize(("rows", "budget"), [(6, "0.06M"), (9, "0.25M"), (12, "1M"), (1, None)])
def test_fewer_scale_embeddings_than_scales_are_refused(rows: int, budget: str | None, tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path / "in", max_scales=rows)
    with pytest.raises(WeightsError, match=rf"lvl_embed.* has {rows} rows"):
        convert_to_folder(transformer, tokenizer, tmp_path / "model", budget=budget)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("budget", ["0.06M", None])
def test_as_many_scale_embeddings_as_scales_are_enough(budget: str | None, tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path / "in", max_scales=7)
    assert convert_to_folder(transformer, tokenizer, tmp_path / "model", budget=budget).is_dir()


@pytest.mark.parametrize(
    ("name", "rows"),
    [("lvl_embed.weight", None), ("pos_start", None), ("head.weight", None), ("cfg_uncond", None), ("head.bias", 1)],
)
def test_a_table_of_another_width_is_refused(name: str, rows: int | None, tmp_path: Path) -> None:
    transformer, tokenizer = write_pair(tmp_path / "in")
    tensors = official_transformer()
    torch.save(tensors | {name: tensors[name][..., : -1 if rows is None else rows].clone()}, transformer)
    with pytest.raises(WeightsError):
        convert_to_folder(transformer, tokenizer, tmp_path / "model")
