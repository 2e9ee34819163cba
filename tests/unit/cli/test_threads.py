"""Threads of the command line: the user's environment counts, and a model's work decides otherwise."""

import gc
from pathlib import Path

import pytest
import torch

from bitvar.cli import threads
from bitvar.pipeline import InfinityPipeline
from bitvar.runtime.threads import useful_threads
from tests.support.tiny import tiny_pipeline

NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    return found


def test_small_work_has_one_thread() -> None:
    assert useful_threads(1e9, 8) == 1
    assert useful_threads(200e9, 8) == 8


def test_the_work_decides(pipeline: InfinityPipeline, chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    threads.settle(pipeline)
    monkeypatch.setattr("bitvar.runtime.threads._SMALL", 1.0)
    threads.settle(pipeline)
    assert chosen == [1, 8]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_user_decides_first(
    name: str, pipeline: InfinityPipeline, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "3")
    threads.settle(pipeline)
    assert chosen == []
    assert threads.describe_threads()["threads"] == f"{name}=3"


def test_garbage_is_collected_from_here_on(pipeline: InfinityPipeline, chosen: list[int]) -> None:
    gc.disable()
    try:
        threads.settle(pipeline)
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
    threads.settle(pipeline)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_waiting_is_short_unless_the_user_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    threads.wait_politely()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv(name, "5")
    threads.wait_politely()
    assert {key: os.environ.get(key) for key in NAMES[2:]} == dict.fromkeys(NAMES[2:]) | {name: "5"}
    assert threads.describe_threads()["waiting threads"] == f"{name}=5"


def test_doctor_tells_all_of_it() -> None:
    facts = threads.describe_threads()
    assert "bitvar generate" in facts["threads"]
    assert "GOMP_SPINCOUNT=1000" in facts["waiting threads"]


def test_the_embedded_model_is_small_and_the_smallest_preset_is_not() -> None:
    from bitvar.costs.flops import forward_flops
    from bitvar.transformer.config import PRESETS, TransformerConfig
    from bitvar.weights.hub import EMBEDDED_MODEL

    embedded = TransformerConfig.load(Path(EMBEDDED_MODEL) / "transformer" / "config.json")
    work = {
        name: max(forward_flops(c, s, text_tokens=c.max_text_tokens).total for s in c.all_schedules())
        for name, c in (("embedded", embedded), ("125M", PRESETS["125M"]))
    }
    assert useful_threads(work["embedded"], 8) == 1
    assert useful_threads(work["125M"], 8) == 8
