"""Checkpoints of other trainers: prefixes of wrappers, and what state dicts are put under."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitvar.errors import WeightsError
from bitvar.weights.official.files import read_official, without_prefixes

NAMES = ("cfg_uncond", "block_chunks.0.module.1.sa.q_bias", "head.weight")


def tensors(prefix: str = "", value: float = 1.0) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full((2,), value) for name in NAMES}


def read(path: Path, content: object) -> tuple[dict[str, Tensor], list[str]]:
    told: list[str] = []
    torch.save(content, path)
    return read_official(path, log=told.append), told


PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@pytest.mark.parametrize("prefixes", [*itertools.permutations(PREFIXES, 2), *((p,) for p in PREFIXES), PREFIXES])
def test_prefixes_come_off_in_any_order(prefixes: tuple[str, ...]) -> None:
    assert set(without_prefixes(tensors("".join(prefixes)), "x")) == set(NAMES)


def test_prefixes_inside_a_name_come_off_but_its_own_module_stays() -> None:
    given = {f"module.{name.replace('.1.', '.1._fsdp_wrapped_module._orig_mod.')}": torch.ones(1) for name in NAMES}
    assert set(without_prefixes(given, "x")) == set(NAMES)


def test_a_prefix_of_some_names_only_stays() -> None:
    given = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert set(without_prefixes(given, "x")) == {"module.a", "b"}


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(WeightsError, match="two tensors with the same name"):
        without_prefixes({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}, "x")


def test_the_count_of_an_average_is_left_out_and_told() -> None:
    told: list[str] = []
    given = tensors("module.") | {"n_averaged": torch.tensor(3)}
    assert set(without_prefixes(given, "x", told.append)) == set(NAMES)
    assert "n_averaged" in told[0]


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "module", "ema", "model_ema"])
def test_wrappers(tmp_path: Path, key: str) -> None:
    found, told = read(tmp_path / "x.pth", {key: tensors("module.")})
    assert set(found) == set(NAMES)
    assert told == []


def test_wrappers_inside_wrappers(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "x.pth", {"state_dict": {"model": {"trainer": {"gpt_fsdp": tensors("_orig_mod.")}}}})
    assert set(found) == set(NAMES)


def test_the_model_counts_before_its_average_and_that_is_told(tmp_path: Path) -> None:
    content = {"ema": tensors(value=2.0), "model": tensors(value=1.0), "epoch": 3, "optimizer": {"state": {}}}
    found, told = read(tmp_path / "x.pth", content)
    assert all(tensor[0] == 1 for tensor in found.values())
    assert len(told) == 1
    assert "took 'model' and left out ema, epoch, optimizer" in told[0]
    assert "save it alone" in told[0]


def test_what_nobody_knows_beside_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="discriminator"):
        read(tmp_path / "x.pth", {"model": tensors(), "discriminator": tensors()})
