"""Recipes are other people's code: whatever is wrong with one is three lines and exit code 2, and stdout stays ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitvar.errors import UsageError
from bitvar.training.recipes import read_recipe
from tests.support.ranks import ROOT

GOOD = """
from bitvar.training.config import OptimizationConfig, TransformerTraining
from bitvar.transformer import ScheduleConfig, TransformerConfig

def recipe({arguments}):
    {first}
    return TransformerTraining(
        model=TransformerConfig(depth=1, width=16, num_heads=2, bits=4, text_width=6,
                                schedules=(ScheduleConfig(grids=((1, 1), (2, 2)), reference=(2, 2)),)),
        optimization=OptimizationConfig(steps=4, batch_size=4, learning_rate={rate}),
    )
"""


def good(first: str = "pass", *, rate: str = "1e-3", arguments: str = "") -> str:
    return GOOD.format(first=first, rate=rate, arguments=arguments)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BAD: dict[str, tuple[str | bytes, str]] = {
    "sys.exit(0)": ("import sys\nsys.exit(0)", "recipe.py, line 2"),
    "sys.exit in recipe()": (good("import sys; sys.exit(3)"), "line 6"),
    "SystemExit with a text": ("raise SystemExit('bye')", "'bye'"),
    "a syntax error": ("x = 1\ndef recipe(:\n", "recipe.py, line 2 is not valid Python"),
    "an exception": ("x = 1\ny = 1 / 0\n", "recipe.py, line 2"),
    "an exception in recipe()": (good("{}['a']"), "KeyError: 'a'"),
    "an exception of many lines": ("raise ValueError('a\\nb\\nc')", "ValueError: a b c"),
    "an exception without words": ("assert False", "AssertionError"),
    "a wrong number": (good(rate="-1"), "learning_rate = -1: Input should be greater than 0"),
    "a wrong type": (good(rate="'fast'"), "learning_rate = 'fast'"),
    "a wrong number that is copied in": (
        good().replace("    return Trans", "    made = Trans")
        + "    return made.model_copy(update={'optimization': made.optimization.model_copy(update={'steps': -5})})\n",
        "optimization.steps",
    ),
    "a missing module": ("import no_such_module_at_all", "imports 'no_such_module_at_all', which is not installed"),
    "a missing name": ("from bitvar.training.config import Nothing", "cannot import name"),
    "deep recursion": ("def f(): return f()\nf()", "RecursionError"),
    "a recipe that is to be awaited": (good().replace("def recipe", "async def recipe"), "returns coroutine"),
    "a batch without end": (good().replace("batch_size=4", "batch_size=10**30"), "batch_size"),
    "no recipe": ("x = 1", "no function recipe()"),
    "a recipe that is no function": ("recipe = 5", "its recipe is of type int"),
    "a recipe that returns nothing": ("def recipe(): pass", "returns NoneType"),
    "a recipe that returns a dict": ("def recipe(): return {}", "returns dict"),
    "an argument without a default": (good(arguments="size, steps=3"), "--recipe-arg size=VALUE"),
    "a positional argument": (good(arguments="size, /"), "--recipe-arg size=VALUE"),
    "binary": (bytes(range(256)) * 4, "is not valid Python"),
    "zero bytes": (b"\0" * 40, "is not valid Python"),
    "not UTF-8": ("x = '\xe9'".encode("latin-1"), "is not valid Python"),
    "empty": (b"", "no function recipe()"),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_in_three_lines(tmp_path: Path, name: str) -> None:
    text, words = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        read_recipe(path, [])
    message = str(error.value)
    assert words in message
    assert message.count("\n") == 2
    assert "recipe.py" in message or "argument" in message


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in ((".", "it is a folder"), ("gone.py", "the file is missing"), ("pipe", "a pipe or a device")):
        with pytest.raises(UsageError, match=words):
            read_recipe(tmp_path / name, [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps"], "write steps=VALUE"),
        (["stepz=3"], "did you mean 'steps'"),
        (["steps=many"], "steps is of type int"),
        (["steps=1.5"], "steps is of type int"),
        (["fast=perhaps"], "fast is of type bool"),
    ],
)
def test_arguments_are_read_by_the_signature(tmp_path: Path, arguments: list[str], words: str) -> None:
    path = write(tmp_path, good("assert fast is False or steps == 7", arguments="steps=3, fast=False"))
    with pytest.raises(UsageError, match=words):
        read_recipe(path, arguments)
    read_recipe(path, ["fast=no"])
    read_recipe(path, ["fast=true", "steps=7"])


def test_ctrl_c_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        read_recipe(write(tmp_path, "raise KeyboardInterrupt"), [])


def test_prints_go_to_stderr_even_those_of_programs(tmp_path: Path) -> None:
    shout = "import os, sys; print('one'); os.system('echo two'); sys.stdout.write('three')"
    path = write(tmp_path, f"print('four')\n{good(shout)}")
    command = [sys.executable, "-m", "bitvar.cli.main", "train", str(path), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["optimization"]["steps"] == 4
    assert all(word in done.stderr for word in ("one", "two", "three", "four"))
