"""The command at its edges: outputs that can't be written to, hints for what is missing, version and completion."""

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from bitvar import __version__, errors
from bitvar.cli import exit_codes
from bitvar.errors import install_hint

COMMANDS = (["doctor"], ["doctor", "--json"], ["--help"], ["generate", "--help"], ["--version"], ["data"], [])


def run(arguments: Sequence[str], *, unbuffered: bool = False, **options: object) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own; its standard error as text."""
    command = [sys.executable, *(["-u"] if unbuffered else []), "-m", "bitvar.cli.main", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=120, **options)  # type: ignore[call-overload]


def told_once(error: str) -> bool:
    return error.count("\n  why: ") == 1 and len(error.splitlines()) == 3 and error.startswith("Can't write")


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_output_is_one_message(arguments: list[str], unbuffered: bool) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = run(arguments, unbuffered=unbuffered, stdout=full)
    assert done.returncode == 1
    assert told_once(done.stderr), done.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_output_is_one_message(arguments: list[str]) -> None:
    done = run(arguments, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert told_once(done.stderr), done.stderr


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_who_has_enough_is_no_error(arguments: list[str], unbuffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(arguments, unbuffered=unbuffered, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_has_its_code_though_nothing_can_be_told() -> None:
    with Path(os.devnull).open("w") as nothing:
        command = [sys.executable, "-m", "bitvar.cli.main", "generate", "--from", "missing.png"]
        closed = subprocess.run(command, stdout=nothing, preexec_fn=lambda: os.close(2), check=False, timeout=120)
    assert closed.returncode == 2


def test_a_file_that_is_not_the_output_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    broken = OSError(errno.EPIPE, os.strerror(errno.EPIPE), "pipe")
    with pytest.raises(typer.Exit) as stop, exit_codes.exit_codes():
        raise broken
    assert stop.value.exit_code == 1
    assert "Can't write pipe." in capsys.readouterr().err


def test_the_version_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bitvar.cli.main", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"bitvar {__version__}\n"


def test_a_shell_can_complete_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['bitvar']\nfrom bitvar.cli.main import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    asked = os.environ | {"_BITVAR_COMPLETE": "complete_bash", "COMP_WORDS": "bitvar gen", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["generate"], done.stderr
    command = f"{shlex.quote(sys.executable)} -m bitvar.cli.main --show-completion; true"
    script = subprocess.run(  # the shell is found among the parents; "true" keeps it from being replaced by the command
        ["bash", "-c", command], capture_output=True, text=True, check=False
    )
    assert "COMPLETE" in script.stdout, script.stderr


@pytest.mark.parametrize("extra", ["evaluate", "lora", "data", "report", "huggingface", "tensorboard", "wandb"])
def test_a_hint_installs_from_the_clone_in_use(extra: str) -> None:
    clone = Path(errors.__file__).resolve().parents[2]
    assert install_hint(extra) == f'run: pip install -e "{clone}[{extra}]"'
    assert install_hint(extra, "more").endswith('" more')
    assert f"\n{extra} = [" in (clone / "pyproject.toml").read_text()


def test_a_hint_installs_the_distribution_where_there_is_no_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib" / "site-packages" / "bitvar" / "errors.py"))
    assert install_hint("evaluate") == 'run: pip install "bitvar[evaluate]"'
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pyproject.toml").write_text('[project]\nname = "another"\n')
    assert install_hint() == 'run: pip install "bitvar"'


def test_a_hint_for_a_clone_of_any_name_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    clone = tmp_path / 'a "$HOME" clone'
    (clone / "src" / "bitvar").mkdir(parents=True)
    (clone / "pyproject.toml").write_text('[project]\nname = "bitvar"\n')
    monkeypatch.setattr(errors, "__file__", str(clone / "src" / "bitvar" / "errors.py"))
    assert shlex.split(install_hint("lora"))[-1] == f"{clone}[lora]"


@pytest.mark.parametrize("path", sorted((Path(errors.__file__).parent).rglob("*.py")), ids=lambda path: path.name)
def test_hints_come_from_one_function(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.name == "errors.py" or ("bitvar[" not in text and "install bitvar with" not in text)


def test_closed_streams_become_streams_to_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    exit_codes.hold_standard_streams()
    assert sys.stdin.buffer.read() == b""
    assert not sys.stderr.isatty()
    for write in (lambda: sys.stdout.write("x"), lambda: sys.stdout.buffer.write(b"x")):
        with pytest.raises(OSError, match="Bad file descriptor") as error:
            write()
        assert error.value.filename == "standard output"
    for stream in (sys.stdin, sys.stderr):
        stream.close()


def test_prompts_from_a_closed_input_are_refused(tmp_path: Path) -> None:
    done = run(["generate", "--prompts", "-", "-o", f"{tmp_path}/"], preexec_fn=lambda: os.close(0))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 3), done.stderr


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FileExistsError(errno.EEXIST, "File exists", "mine"), "a file is where a folder is needed"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "mine/x"), "a file is where a folder is needed"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "mine"), "a folder is where a file is needed"),
    ],
    ids=["exists", "no folder", "folder"],
)
def test_a_file_for_a_folder_is_a_usage_error(error: OSError, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stop, exit_codes.exit_codes():
        raise error
    assert stop.value.exit_code == exit_codes.USAGE
    assert why in capsys.readouterr().err
