"""The process of the command: what it imports, how it leaves, and an interrupt while it starts."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.cli import process

BEHIND = "import sys; sys.argv = ['bitvar', *{arguments!r}]\nfrom bitvar.cli.process import run\n{extra}\nrun()\n"


def run(arguments: list[str], extra: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, after some code of a test's."""
    code = BEHIND.format(arguments=arguments, extra=extra)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, **options
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    """One image of the embedded model, with a report of what the process did when it ended."""
    folder = tmp_path_factory.mktemp("drawn")
    extra = (
        "import atexit, gc, os\n"
        "def report():\n"
        "    import torch\n"
        "    names = sorted({name.split('.')[0] for name in sys.modules} | {'torch._dynamo'} & sys.modules.keys())\n"
        "    print('MODULES', *names)\n"
        "    print('STATE', gc.isenabled(), gc.get_freeze_count() > 10_000, torch.get_num_threads(),\n"
        "          os.environ.get('GOMP_SPINCOUNT'), end='')\n"
        "atexit.register(report)\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        print('TORN DOWN')\n"
        "last = Last()\n"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    return run(["generate", "a red apple", "--seed", "1", "-o", str(folder / "a.png")], extra, env=own)


def test_drawing_imports_no_library_that_it_has_no_use_for(drawn: "subprocess.CompletedProcess[str]") -> None:
    assert drawn.returncode == 0, drawn.stderr
    modules = set(next(line for line in drawn.stdout.splitlines() if line.startswith("MODULES")).split())
    assert "torch" in modules
    assert (
        modules & {"transformers", "scipy", "huggingface_hub", "torch._dynamo", "sympy", "peft", "matplotlib"} == set()
    )


def test_the_end_runs_what_was_registered_and_no_more(drawn: "subprocess.CompletedProcess[str]") -> None:
    assert "MODULES" in drawn.stdout
    assert "STATE" in drawn.stdout  # without a newline: flushed at the very end
    assert "TORN DOWN" not in drawn.stdout


def test_a_small_model_has_one_thread_and_collects_garbage(drawn: "subprocess.CompletedProcess[str]") -> None:
    assert drawn.stdout.splitlines()[-1].split() == ["STATE", "True", "True", "1", "1000"]


def test_a_profiler_gets_to_its_end(tmp_path: Path) -> None:
    words = ["generate", "--from", str(tmp_path / "missing.png")]
    command = [sys.executable, "-m", "cProfile", "-o", str(tmp_path / "profile"), "-m", "bitvar", *words]
    subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert (tmp_path / "profile").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "code"), [(["generate", "--from", "missing.png"], 2), (["generate", "--help"], 0), (["nothing"], 2)]
)
def test_exit_codes_are_those_of_the_command(arguments: list[str], code: int) -> None:
    done = run(arguments)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)
    assert "Traceback" not in done.stderr


def test_a_full_output_is_told_when_a_command_leaves_at_once() -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "bitvar", "generate", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("Can't write to standard output.")


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        ("generate", "typer"),
        ("generate", "bitvar.cli.main"),
        ("generate", "bitvar.cli.generate"),
        ("generate", "torch"),
        ("generate", "torch.cuda"),
        ("doctor", "typer"),
        ("doctor", "bitvar.cli.doctor"),
    ],
)
def test_an_interrupt_while_modules_load_shows_no_traceback(verb: str, module: str, tmp_path: Path) -> None:
    extra = (
        "import os, signal\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    more = ["a dog", "-o", str(tmp_path / "a.png")] if verb == "generate" else []
    done = run([verb, *more], extra)
    assert (done.returncode, done.stderr, done.stdout) == (130, "Cancelled.\n", "")


def test_a_thread_that_still_works_is_waited_for() -> None:
    assert process.may_leave_at_once()
    stop = threading.Event()
    for daemon, leave in ((True, True), (False, False)):
        thread = threading.Thread(target=stop.wait, daemon=daemon)
        thread.start()
        assert process.may_leave_at_once() == leave
    stop.set()


def test_debuggers_and_profilers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getprofile", lambda: print)
    assert not process.may_leave_at_once()


def test_the_libraries_of_a_gpu_get_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert not process.may_leave_at_once()


def test_interrupting_in_this_process_is_possible() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert gc.isenabled()
