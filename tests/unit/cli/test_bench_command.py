"""`bitvar bench command` and the busy neighbour that it starts."""

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.profiling import command
from bitvar.profiling.command import CommandTimes, busy_neighbour, measure_command


def test_medians_and_ratios_are_of_pairs() -> None:
    times = CommandTimes(quiet=[1.0, 2.0, 4.0], beside=[3.0, 2.0, 8.0])
    assert times.summary() == {
        "quiet_s": 2.0,
        "quiet_s_range": [1.0, 4.0],
        "beside_s": 3.0,
        "beside_s_range": [2.0, 8.0],
        "beside_over_quiet": 2.0,
        "beside_over_quiet_range": [1.0, 3.0],
    }


def test_runs_alternate_beside_nothing_and_the_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    neighbour = f"open({str(log)!r}, 'a').write('n')\nprint('ready', flush=True)\nimport time\ntime.sleep(60)\n"
    monkeypatch.setitem(command.NEIGHBOURS, "test", neighbour)
    words = [sys.executable, "-c", f"open({str(log)!r}, 'a').write('c')"]
    times = measure_command(words, "test", runs=2, environment=os.environ, theirs=os.environ)
    assert log.read_text() == "c" + "cnc" * 2
    assert len(times.quiet) == len(times.beside) == 2


@pytest.mark.parametrize("name", list(command.NEIGHBOURS))
def test_a_neighbour_works_until_it_is_stopped(name: str) -> None:
    with busy_neighbour(name, os.environ) as process:
        assert process.poll() is None
    assert process.returncode not in (None, 0)


def test_a_neighbour_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.NEIGHBOURS, "test", "raise SystemExit(5)")
    with pytest.raises(RuntimeError, match="ended with 5"), busy_neighbour("test", os.environ):
        pass


def test_a_command_that_fails_is_an_error() -> None:
    words = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with pytest.raises(RuntimeError, match=r"ended with 1[\s\S]*no such thing"):
        measure_command(words, "loop", runs=1, environment=os.environ, theirs=os.environ)


def test_the_command_measures_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def measured(words: list[str], neighbour: str, *, theirs: dict[str, str], **options: object) -> CommandTimes:
        seen.append(words)
        assert not [name for name in theirs if name.startswith("OMP_")]
        return CommandTimes(quiet=[1.0], beside=[1.5])

    monkeypatch.setattr(command, "measure_command", measured)
    result = CliRunner().invoke(app, ["bench", "command", "a dog", "--runs", "1", "--neighbour", "loop", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["neighbour"], found["pairs"], found["beside_over_quiet"]) == ("loop", 1, 1.5)
    assert seen[0][1:4] == ["-m", "bitvar", "generate"]
    assert seen[0][-1] == "a dog"


def test_an_unknown_neighbour_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "command", "--neighbour", "dog"])
    assert result.exit_code == 2
    assert "choose from" in result.output
