"""Training from Python: `bitvar.train` and `bitvar.export_run` do what the commands do, and raise their errors."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import bitvar
from bitvar import InfinityPipeline, UsageError
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.loop import TrainingInterrupted
from bitvar.training.options import FrozenModels, Launch, Loading, Placement, Reporting, RunPaths
from bitvar.training.recipes import configure, read_recipe
from bitvar.weights.digests import MANIFEST
from tests.unit.cli.test_train_refusals import Run, command, shared, words, work
from tests.unit.training.test_tokenizer_training import words as tokenizer_words
from tests.unit.training.test_tokenizer_training import work as tokenizer_work

__all__ = ["command", "shared", "tokenizer_work", "work"]  # fixtures

FOUR_STEPS = {"optimization.steps": 4, "intervals.save": 1}


def given(work: Path, **more: Any) -> dict[str, Any]:
    """The arguments of `bitvar.train` that stand for the `words` of the command."""
    own: dict[str, Any] = {
        "recipe": work / "recipe.py",
        "data": work / "set",
        "out": work / "python" / "run",
        "tokenizer": work / "tiny" / "image_tokenizer",
        "text_encoder": str(work / "tiny" / "text_encoder"),
        "device": "cpu",
        "workers": 0,
    }
    return own | more


def digests(folder: Path) -> dict[str, str]:
    return json.loads((folder / MANIFEST).read_text())


def test_python_and_the_command_make_the_same_model(
    work: Path, command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = command([*words(work), "--set", "optimization.seed=3"])
    lines: list[str] = []
    made = bitvar.train(**given(work, settings={"optimization.seed": 3}, log=lines.append))
    assert capsys.readouterr() == ("", "")
    assert out.strip() == str(work / "run" / "model")
    assert made == work / "python" / "run" / "model"
    assert digests(made) == digests(work / "run" / "model")
    assert InfinityPipeline.from_pretrained(made, device="cpu")("a red circle", seed=0).images[0].size == (16, 16)
    assert lines[0].startswith("batch 4 = 1 rank x 1 micro-batch of 4")
    assert any(line.startswith("step 2/2") for line in lines)

    parts = {"tokenizer": work / "tiny" / "image_tokenizer", "text_encoder": work / "tiny" / "text_encoder"}
    frozen = ["--tokenizer", str(parts["tokenizer"]), "--text-encoder", str(parts["text_encoder"])]
    command(["bitvar", "export", str(work / "run"), str(work / "exported"), *frozen, "--dtype", "bf16"])
    exported = bitvar.export_run(work / "python" / "run", work / "again", dtype="bf16", **parts)
    assert exported == work / "again"
    assert digests(exported) == digests(work / "exported")


def test_python_and_the_command_make_the_same_tokenizer(tokenizer_work: Path, tmp_path: Path, command: Run) -> None:
    given_words = tokenizer_words(tokenizer_work, tmp_path / "a" / "run", "--set", "optimization.steps=2")
    command(given_words)
    config = read_recipe(tokenizer_work / "recipe.py", [])
    options = dict(zip(given_words[3::2], given_words[4::2], strict=True))
    data, init = Path(options["--data"]), options.get("--init")
    made = bitvar.train(
        config, data=data, out=tmp_path / "b" / "run", settings=["optimization.steps=2"], init=init, device="cpu",
        workers=0,
    )  # fmt: skip
    assert digests(made) == digests(tmp_path / "a" / "run" / "model")
    exported = bitvar.export_run(tmp_path / "b" / "run", tmp_path / "exported", init=init)
    assert digests(exported) == digests(made)


def test_an_interrupted_run_resumes(work: Path) -> None:
    whole = bitvar.train(**given(work, settings=FOUR_STEPS))

    def interrupt(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    cut = given(work, out=work / "cut" / "run", settings=FOUR_STEPS)
    with pytest.raises(TrainingInterrupted, match="the same command resumes"):
        bitvar.train(**cut, log=interrupt)
    assert not (work / "cut" / "run" / "model").exists()
    lines: list[str] = []
    made = bitvar.train(**cut, log=lines.append)
    assert "resuming at step 3" in lines
    assert digests(made) == digests(whole)
    lines.clear()
    assert bitvar.train(**cut, log=lines.append) == made
    assert "finished already, at step 4" in lines
    longer = cut | {"settings": FOUR_STEPS | {"optimization.steps": 5}}
    with pytest.raises(UsageError, match=r"steps"):
        bitvar.train(**longer)
    bitvar.train(**longer, extend=True, log=lines.append)
    assert any(line.startswith("extended from 4 to 5 steps") for line in lines)


def test_adapters_come_out_of_a_model(work: Path) -> None:
    adapted = given(work, init=work / "tiny", recipe_args={"adapters": 2})
    made = bitvar.train(**adapted)
    assert made == work / "python" / "run" / "lora"
    with pytest.raises(UsageError, match="Adapters belong to a model"):
        bitvar.export_run(work / "python" / "run", work / "exported")
    exported = bitvar.export_run(work / "python" / "run", work / "exported", init=work / "tiny")
    again, first = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (exported, made))
    assert again
    assert all(torch.equal(again[name], first[name]) for name in again | first)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"devise": "cpu"}, "did you mean 'device'"),
        ({"micro_batch_size": 0}, "it must be at least 1"),
        ({"shards": 0}, "it must be at least 1"),
        ({"shards": 2}, "--shards needs several processes"),
        ({"workers": -1}, "it must not be negative"),
        ({"max_bad_fraction": 1.5}, "it must lie between 0 and 1"),
        ({"tracker": "tensorbord"}, "did you mean 'tensorboard'"),
        ({"attention": "fast"}, "Unknown attention"),
        ({"device": "tpu"}, "There is no device 'tpu'"),
        ({"name": "a/b"}, "it has a slash"),
        ({"tokenizer": "\0"}, "Bad value for 'tokenizer'"),
        ({"init": "\0"}, "Bad value for 'init'"),
        ({"out": "\0"}, "Bad value for 'out'"),
        ({"data": "gone"}, "There is no data in gone"),
        ({"recipe": "gone.py"}, "There is no recipe gone.py"),
        ({"recipe_args": ["stepz=1"]}, "did you mean 'steps'"),
        ({"recipe_args": {"steps": "many"}}, "steps is of type int"),
        ({"settings": {"optimization.step": 1}}, "did you mean 'steps'"),
        ({"settings": {"optimization.steps": {1}}}, "Bad value for 'optimization.steps' in the settings"),
        ({"settings": ["optimization.steps"]}, "has no '='"),
    ],
)
def test_what_is_wrong_is_a_usage_error(work: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        bitvar.train(**given(work, **more))
    assert message in str(error.value)
    assert not (work / "python").exists()


def test_a_recipe_that_exits_is_a_usage_error(work: Path) -> None:
    (work / "recipe.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UsageError, match=r"calls sys\.exit"):
        bitvar.train(**given(work))


def test_an_export_that_can_not_be_is_a_usage_error(work: Path) -> None:
    with pytest.raises(UsageError, match="has no checkpoint"):
        bitvar.export_run(work / "gone", work / "exported")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        bitvar.export_run(work / "gone", work / "tiny")


def test_a_configuration_is_taken_as_a_recipes_is(work: Path) -> None:
    by_path = configure(work / "recipe.py", arguments={"steps": 3, "adapters": "2"}, settings={"optimization.clip": 2})
    as_words = configure(str(work / "recipe.py"), arguments=["steps=3", "adapters=2"], settings=["optimization.clip=2"])
    assert by_path == as_words
    assert by_path == configure(by_path)
    assert by_path.optimization.steps == 3
    assert isinstance(by_path, TransformerTraining)
    assert by_path.lora is not None
    with pytest.raises(UsageError, match="a configuration takes no arguments"):
        configure(by_path, arguments={"steps": 3})
    broken = by_path.model_copy(update={"optimization": by_path.optimization.model_copy(update={"steps": -5})})
    with pytest.raises(UsageError, match=r"optimization\.steps"):
        configure(broken)


def test_a_run_shorter_than_its_warmup_is_warned_of(work: Path) -> None:
    for steps, warned in ((1, True), (2, False)):
        lines: list[str] = []
        shutil.rmtree(work / "python", ignore_errors=True)
        settings = {"optimization.warmup_steps": 2, "optimization.steps": steps}
        bitvar.train(**given(work, settings=settings, log=lines.append))
        assert any("never reaches the peak learning rate" in line for line in lines) == warned


def test_a_launch_is_the_place_of_a_process(work: Path, tmp_path: Path) -> None:
    assert Launch().is_main
    assert not Launch().is_child
    assert Launch(rank=0).is_main
    assert Launch(rank=0).is_child
    assert not Launch(rank=1, world=2).is_main
    beating = Launch(heartbeat=tmp_path / "heartbeat")
    assert beating.is_child
    bitvar.train(**given(work, launch=beating))
    assert (tmp_path / "heartbeat").is_file()


@pytest.mark.parametrize("group", [RunPaths, FrozenModels, Placement, Loading, Reporting, Launch])
def test_options_are_frozen_and_given_by_name(group: Any) -> None:
    assert group.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(group))
