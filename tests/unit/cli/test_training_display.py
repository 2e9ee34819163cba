"""The live line of a terminal, and the plain lines of a pipe."""

import pytest

from bitvar.cli.training_display import Display

VALUES = {"loss": 0.693147, "validation loss": 0.68, "samples_per_second": 12.345, "seconds_left": 65.0}


def test_a_pipe_gets_every_line_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10)
    display.on_step(3, VALUES)
    display.log("step 3/10  loss 0.6931")
    display.log("WARNING: \udcff")
    display.close()
    assert capsys.readouterr().err == "step 3/10  loss 0.6931\nWARNING: \\xff\n"


def test_a_terminal_gets_a_bar_in_place_of_step_lines(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10, live=True)
    display.log("resuming at step 2")
    display.on_step(3, VALUES)
    display.log("step 3/10  loss 0.6931")
    display.log("WARNING: [red]no markup[/red]")
    display.close()
    display.close()
    out, err = capsys.readouterr()
    assert not out
    assert "resuming at step 2" in err
    assert "step 3/10" not in err
    assert "WARNING: [red]no markup[/red]" in err
    assert "3/10" in err


def test_other_ranks_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10, quiet=True, live=True)
    display.log("a")
    display.on_step(1, VALUES)
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_resumed_run_starts_where_it_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(10, live=True)
    display.on_step(8, VALUES)
    display.close()
    err = capsys.readouterr().err
    assert "8/10" in err
    assert "0/10" not in err
