"""Runs the command in this process, as a test sees it: exit code and both streams."""

import json
import sys
from typing import Any, NamedTuple

import pytest

from bitvar.cli import main as cli


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Read standard output of a command that succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any) -> Result:
    """Run `bitvar` with these words, and refuse a traceback."""
    monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return Result(int(stop.value.code or 0), captured.out, captured.err)
