"""Names of models are checked before any work."""

from pathlib import Path

import pytest

from bitvar.cli.echo import printable
from bitvar.errors import UsageError
from bitvar.training.model_names import check_name, choose_name, find_fault


@pytest.mark.parametrize(
    "name",
    ["", " ", "\udcff", "a/b", "a\\b", "..", ".hidden", "-x", "--name", "x" * 101, "x" * 300, "a\nb", "a\0b", "a ",
     "\x1b[31m", "\u202eabc"],
)  # fmt: skip
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as error:
        check_name(name)
    text = str(error.value)
    assert text.count("\n") == 2
    assert len(text) < 600
    text.encode("utf-8")


@pytest.mark.parametrize(
    "name", ["icons", "My model 2", "chats-et-chiens_v1.2", "\u732b", "a+b", "x" * 100, "\u00e9t\u00e9"]
)
def test_letters_of_any_script_are_fine(name: str) -> None:
    assert check_name(name) == name


def test_the_folder_gives_the_name() -> None:
    assert choose_name(Path("runs/mine"), None) == "mine"
    assert choose_name(Path("runs/mine"), "other") == "other"
    assert choose_name(Path("/"), None) == "model"
    assert choose_name(Path("runs/\udcff"), None) == "model"
    assert find_fault(choose_name(Path(), None)) is None


def test_paths_can_be_printed() -> None:
    assert printable(str(Path("runs/\udcff"))) == "runs/\\xff"
    assert printable("\u732b") == "\u732b"
