"""The file of a control adapter: read strictly, and refused for another base model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig, ControlSettings
from bitvar.control.file import HEADER_KEY, WEIGHTS, ControlHeader, find_control, read_control, save_control
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.file import LoraBase
from tests.support.tiny import tiny_transformer

BASE = LoraBase(name="tiny", transformer="a" * 64)
MODEL = tiny_transformer().config


@pytest.fixture
def adapter() -> ControlAdapter:
    settings = ControlSettings(channels=(8, 8), depth=1, hidden=8)
    made = ControlAdapter(ControlConfig.of(settings, MODEL, stride=4))
    made.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith("projections"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture
def folder(adapter: ControlAdapter, tmp_path: Path) -> Path:
    save_control(adapter, tmp_path / "lines", base=BASE)
    return tmp_path / "lines"


def rewrite(folder: Path, *, header: object = None, **changes: torch.Tensor) -> Path:
    """The file with another header or other tensors, by itself, since the manifest would refuse it."""
    path = folder.with_name("changed.safetensors")
    own = ControlHeader(
        format=1,
        config=ControlConfig(channels=(8, 8), depth=1, hidden=8, scales=3, width=32, patch_size=1),
        base=BASE,
    ).model_dump()
    text = header if isinstance(header, str) else json.dumps(own | dict(header or {}))  # type: ignore[call-overload]
    save_file(load_file(folder / WEIGHTS) | changes, path, {HEADER_KEY: text})
    return path


def test_a_file_gives_back_the_adapter_in_half_precision(adapter: ControlAdapter, folder: Path) -> None:
    loaded = read_control(find_control(folder), base=BASE, model=MODEL)
    assert loaded.adapter.config == adapter.config and loaded.base == BASE and len(loaded.sha256) == 64
    for name, tensor in loaded.adapter.state_dict().items():
        assert torch.equal(tensor, adapter.state_dict()[name].half().float())
    assert not any(parameter.requires_grad for parameter in loaded.adapter.parameters())
    assert find_control(folder / WEIGHTS) == find_control(str(folder)) == folder / WEIGHTS


def test_another_model_is_refused_and_one_without_a_digest_is_not(folder: Path) -> None:
    path = folder / WEIGHTS
    with pytest.raises(WeightsError, match=r"belongs to another model[\s\S]*trained with tiny"):
        read_control(path, base=LoraBase(name="tiny", transformer="b" * 64), model=MODEL)
    with pytest.raises(WeightsError, match="belongs to another model"):
        read_control(path, base=BASE, model=tiny_transformer(width=64).config)
    assert read_control(path, base=LoraBase(name="unsaved"), model=MODEL)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("not json", "can't be read"),
        ("[1]", "no bitvar_control"),
        ({"format": 2}, "its format is 2"),
        ({"format": True}, "Bad value"),
        ({"more": 1}, "Unknown key"),
        ({"config": {"channels": [8]}}, "Bad value"),
        (
            {"config": {"channels": [8, 8], "depth": 1, "hidden": 9, "scales": 3, "width": 32, "patch_size": 1}},
            "don't fit",
        ),
    ],
)
def test_a_strange_header_is_refused(folder: Path, header: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_control(rewrite(folder, header=header), base=BASE, model=MODEL)


def test_strange_tensors_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="more"):
        read_control(rewrite(folder, more=torch.zeros(1)), base=BASE, model=MODEL)
    bias = torch.full((8,), torch.nan)
    with pytest.raises(WeightsError, match="NaN"):
        read_control(rewrite(folder, **{"fc.bias": bias}), base=BASE, model=MODEL)


def test_other_files_are_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match="no control adapter"):
        read_control(tmp_path / "lora.safetensors", base=BASE, model=MODEL)
    with pytest.raises(UsageError, match="no control adapter"):
        find_control(tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="is no control adapter"):
        find_control(tmp_path / "empty")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="sha256"):
        find_control(folder)


def test_weights_that_half_precision_can_not_hold_are_not_written(adapter: ControlAdapter, tmp_path: Path) -> None:
    with torch.no_grad():
        adapter.fc.bias[0] = 1e6
    with pytest.raises(WeightsError):
        save_control(adapter, tmp_path / "huge", base=BASE)
    assert not (tmp_path / "huge").exists()
