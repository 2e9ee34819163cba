"""Running out of memory: recognised whatever raises it, explained, and without holding on to tensors."""

import errno
import gc
import weakref
from pathlib import Path

import pytest
import torch
import typer

from bitvar.cli import exit_codes
from bitvar.errors import OutOfMemoryError
from bitvar.pipeline import InfinityPipeline
from bitvar.runtime.out_of_memory import explained_memory, is_out_of_memory, place_of
from tests.unit.sampling.test_batch_invariance import rough_pipeline

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB, max allowed: 9.07 GB).")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    " 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)
MAPPING = OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("error", "place"),
    [(CUDA, "the GPU"), (MPS, "the GPU"), (CPU, "this machine"), (MemoryError(), "this machine"),
     (MAPPING, "this machine")],
    ids=["cuda", "mps", "cpu", "python", "mapping"],
)  # fmt: skip
def test_every_kind_is_recognised_and_exits_with_4(
    error: BaseException, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_out_of_memory(error)
    assert place_of(error) == place
    monkeypatch.setattr("sys.argv", ["bitvar", "generate", "a cat"])
    for raised in (error, _explained(error)):
        with pytest.raises(typer.Exit) as stop, exit_codes.exit_codes():
            raise raised
        told = capsys.readouterr().err
        assert stop.value.exit_code == exit_codes.MEMORY
        assert f"don't fit {place}" in told
        assert "--offload text" in told
        assert "bitvar fit" in told


def _explained(error: BaseException) -> BaseException:
    with pytest.raises(OutOfMemoryError) as caught, explained_memory("the model and its activations"):
        raise error
    return caught.value


def test_each_place_and_command_has_its_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(verb: str, error: BaseException) -> str:
        monkeypatch.setattr("sys.argv", ["bitvar", verb])
        with pytest.raises(typer.Exit), exit_codes.exit_codes():
            raise error
        return capsys.readouterr().err

    assert "--offload blocks" in told("generate", CUDA)
    assert "--fast off" not in told("generate", CUDA)
    assert "--fast off" in told("generate", CPU)
    assert "--micro-batch" in told("train", CUDA)
    assert "--max-batch" in told("serve", CUDA)
    assert "--dtype bf16" in told("evaluate", CUDA)


@pytest.mark.parametrize("error", [RuntimeError("a shape is wrong"), OSError(errno.ENOSPC, "No space left")], ids=str)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, explained_memory("it"):
        raise error
    assert caught.value is error


def test_a_call_that_runs_out_says_what_to_do_and_leaves_the_pipeline_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = rough_pipeline(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipe.transformer.blocks[1], "forward", _run_out)
        with pytest.raises(OutOfMemoryError, match="don't fit the GPU") as caught:
            pipe("a red dog")
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, RuntimeError), "as PyTorch's own error is"
    assert "offload_text=True" in str(caught.value)
    assert pipe("a red dog").images
    event = list(pipe.stream("a red dog"))[-1]
    monkeypatch.setattr(pipe.tokenizer.decoder, "forward", _run_out)
    with pytest.raises(OutOfMemoryError, match="decoder's activations don't fit the GPU"):
        _ = event.pixels


def test_tensors_of_the_failed_call_are_freed() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def run_out() -> None:
        tensor = torch.zeros(8)
        kept.append(weakref.ref(tensor))
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError) as caught, explained_memory("it"):
        run_out()
    gc.collect()
    assert caught.value.__traceback__ is not None, "it is still alive, with all that it holds"
    assert kept[0]() is None


def test_loading_that_runs_out_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitvar.pipeline.text_to_image.load_folder", _run_out)
    with pytest.raises(OutOfMemoryError, match="the model's weights don't fit the GPU"):
        InfinityPipeline.from_pretrained(device="cpu")


def _run_out(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
