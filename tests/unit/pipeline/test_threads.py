"""Two threads on one pipeline: each caller gets exactly its images, or a clear refusal."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.lora.layers import LoraSettings, add_adapter, save_adapter
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import tiny_pipeline, tiny_transformer

PROMPTS = ("a dog", "a red circle")


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return tiny_pipeline(tmp_path / "tiny")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = tiny_transformer()
    add_adapter(model, LoraSettings(rank=2, alpha=200.0), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    save_adapter(model, tmp_path / "adapter", settings=LoraSettings(rank=2, alpha=200.0), base=None)
    return tmp_path / "adapter"


def drawn(pipe: InfinityPipeline, prompt: str, seed: int) -> tuple[bytes, Any]:
    out = pipe(prompt, seed=seed, output_type="np")
    return out.images.tobytes(), out.metadata[0].get("lora")


def test_calls_in_threads_give_what_they_give_alone(pipe: InfinityPipeline) -> None:
    jobs = [(prompt, seed) for seed in range(8) for prompt in PROMPTS]
    alone = [drawn(pipe, *job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda job: drawn(pipe, *job), jobs)) == alone


def test_an_image_is_made_with_the_adapters_it_names(pipe: InfinityPipeline, adapter: Path) -> None:
    """One thread draws, another switches the adapter all the time: no image is of both, and records tell which."""
    pipe.load_lora_weights(adapter, "one")
    expected: dict[bool, bytes] = {}
    for enabled in (False, True):
        (pipe.enable_lora if enabled else pipe.disable_lora)()
        expected[enabled] = drawn(pipe, "a dog", 3)[0]
    assert expected[False] != expected[True]
    done, refused, switched = threading.Event(), [], []

    def switch() -> None:
        while not done.is_set():
            for change in (pipe.disable_lora, pipe.enable_lora):
                try:
                    change()
                    switched.append(change)
                except UsageError as error:
                    refused.append(str(error))
                done.wait(0.0005)  # so that the other thread gets its turn

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        for _ in range(60):
            pixels, lora = drawn(pipe, "a dog", 3)
            assert pixels == expected[lora is not None]
    finally:
        done.set()
        thread.join()
    assert switched and refused
    assert all("Can't change the adapters now." in text and "  do:  " in text for text in refused)


@pytest.mark.parametrize(
    "change",
    [
        lambda pipe, adapter: pipe.load_lora_weights(adapter, "two"),
        lambda pipe, adapter: pipe.set_adapters("one", 0.5),
        lambda pipe, adapter: pipe.disable_lora(),
        lambda pipe, adapter: pipe.fuse_lora(),
        lambda pipe, adapter: pipe.delete_adapters("one"),
        lambda pipe, adapter: pipe.unload_lora_weights(),
        lambda pipe, adapter: pipe.to(dtype="bf16"),
    ],
    ids=["load", "set", "disable", "fuse", "delete", "unload", "to"],
)
def test_nothing_changes_the_model_between_two_scales(pipe: InfinityPipeline, adapter: Path, change: Any) -> None:
    pipe.load_lora_weights(adapter, "one")
    expected = drawn(pipe, "a dog", 3)[0]
    stream = pipe.stream("a dog", seed=3)
    next(stream)
    with pytest.raises(UsageError, match=r"Can't .* now\.[\s\S]*1 call is generating[\s\S]*close its stream"):
        change(pipe, adapter)
    *_, last = stream
    assert torch.equal(last.pixels, pipe("a dog", seed=3, output_type="pt").images)
    assert drawn(pipe, "a dog", 3)[0] == expected
    change(pipe, adapter)  # and once the stream has ended it may


def test_a_stream_that_is_left_lets_go(pipe: InfinityPipeline, adapter: Path) -> None:
    for _ in pipe.stream("a dog", seed=1):
        break
    pipe.load_lora_weights(adapter, "one")
    stream = pipe.stream("a dog", seed=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    pipe.unload_lora_weights()


def test_a_copy_is_used_by_nobody(pipe: InfinityPipeline, adapter: Path) -> None:
    stream = pipe.stream("a dog", seed=1)
    next(stream)
    copied = copy.deepcopy(pipe)
    copied.load_lora_weights(adapter, "one")
    assert pipe.get_list_adapters() == {}
