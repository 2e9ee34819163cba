"""Fused blocks compute what plain ones do; compiled, up to rounding."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch

from bitvar.runtime import compiled_blocks
from bitvar.runtime.compiled_blocks import CompiledBlocks
from bitvar.runtime.fused_block import FusedBlock
from tests.support.decoding import GUIDED_THEN_NOT, equal, rough_transformer, run, texts
from tests.support.tiny import tiny_tokenizer


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Functions that would be compiled. They run as they are."""
    asked = list[Any]()

    def as_it_is(function: Any) -> Any:
        asked.append(function)
        return function

    monkeypatch.setattr(compiled_blocks, "_FUSED", FusedBlock(as_it_is))
    monkeypatch.setattr(compiled_blocks, "_compiled", as_it_is)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_blocks_compute_the_plain_ones(dtype: torch.dtype, uncompiled: list[Any]) -> None:
    model, tokenizer = rough_transformer(torch.device("cpu"), dtype), tiny_tokenizer()
    latent, schedule = torch.randn(1, 4, 4, 4), model.config.all_schedules()[0]
    plain = run(model, texts(5, 3), schedule, guidance=GUIDED_THEN_NOT)
    image = tokenizer.decode(latent)
    optimization = CompiledBlocks(model, tokenizer)
    optimization.apply()
    assert equal(run(model, texts(5, 3), schedule, guidance=GUIDED_THEN_NOT), plain)
    assert torch.equal(tokenizer.decode(latent.requires_grad_(False)), image)
    names = {function.__qualname__ for function in uncompiled}
    assert names == {"_enter", "_rotate", "_between", "_after", "_leave"}


def test_training_runs_the_plain_forward(uncompiled: list[Any]) -> None:
    model = rough_transformer(torch.device("cpu"))
    CompiledBlocks(model, tiny_tokenizer()).apply()
    schedule = model.config.all_schedules()[0]
    inputs = [torch.randn(1, 4, *grid) for grid in schedule.grids[1:]]
    assert torch.is_grad_enabled()
    model(texts(4), inputs, schedule)
    assert not uncompiled
    with torch.no_grad():
        model(texts(4), inputs, schedule)
    assert uncompiled


def test_undo_leaves_nothing_and_copies_are_their_own(uncompiled: list[Any]) -> None:
    model, tokenizer = rough_transformer(torch.device("cpu")), tiny_tokenizer()
    schedule = model.config.all_schedules()[0]
    expected = run(model, texts(4), schedule)
    optimization = CompiledBlocks(model, tokenizer)
    optimization.apply()
    twin = copy.deepcopy(optimization)
    optimization.undo()
    assert not any("forward" in vars(module) for module in (*model.modules(), *tokenizer.modules()))
    for parameter in model.parameters():
        parameter.zero_()
    assert "forward" in vars(twin.transformer.blocks[0])
    assert equal(run(twin.transformer, texts(4), schedule), expected)
    assert pickle.loads(pickle.dumps(CompiledBlocks(model, tokenizer))).transformer is not model


SCRIPT = """
import torch
from tests.support.tiny import tiny_tokenizer
from tests.support.decoding import rough_transformer, run, texts
from bitvar.runtime.compiled_blocks import CompiledBlocks
model, tokenizer = rough_transformer(torch.device("cpu")), tiny_tokenizer()
schedules = model.config.all_schedules()
plain = [run(model, texts(5), schedule) for schedule in schedules]
latent = torch.randn(1, 4, 4, 4)
with torch.no_grad():
    image = tokenizer.decode(latent)
    CompiledBlocks(model, tokenizer).apply()
    for schedule, expected in zip(schedules, plain):
        for got, wanted in zip(run(model, texts(5), schedule), expected):
            assert torch.allclose(got.float(), wanted.float(), rtol=1e-4, atol=1e-4)
    assert torch.allclose(tokenizer.decode(latent), image, atol=1e-4)
assert not torch._dynamo.utils.counters["graph_break"]
print("the same")
"""


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_up_to_rounding() -> None:
    """In a process of its own: here, every function checks the types of its arguments."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "the same", done.stderr
