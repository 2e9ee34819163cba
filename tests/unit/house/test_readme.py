"""What the README says is so: its commands are those CI runs, its Python runs, its links and files exist."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.request import GenerationKwargs
from tests.support.tiny import tiny_pipeline
from tests.unit.house.test_docs import FENCE, LINK, ROOT, blocks, commands, find, parse

README: Final = ROOT / "README.md"
TEXT: Final = README.read_text(encoding="utf-8")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def marked(name: str) -> str:
    """The one command below `<!-- command: NAME -->`."""
    found = re.findall(rf"^<!-- command: {name} -->\n```bash\n(.*)\n```$", TEXT, re.MULTILINE)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", ["picture", "test"])
def test_a_marked_command_begins_with_a_fresh_environment(name: str) -> None:
    command = marked(name)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert all(part.split()[0] in ("python3", ".venv/bin/pip", ".venv/bin/bitvar", ".venv/bin/pytest")
               for part in command.split(" && "))  # fmt: skip


def test_what_the_marked_commands_run() -> None:
    assert ".venv/bin/bitvar generate " in marked("picture")
    assert marked("test").endswith("&& .venv/bin/pytest")
    assert len(re.findall(r"<!-- command: ", TEXT)) == 2


@pytest.mark.skipif(shutil.which("awk") is None, reason="needs awk")
def test_ci_takes_the_test_command_from_here() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extraction = re.search(r"^command=\$\((awk '.*' README\.md)\)$", script, re.MULTILINE)
    assert extraction is not None
    found = subprocess.run(shlex.split(extraction[1]), cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.rstrip("\n") == marked("test")


def test_versions_and_extras_are_those_of_the_project() -> None:
    torch = next(entry for entry in PROJECT["dependencies"] if entry.startswith("torch"))
    low, high = re.search(r"Any torch from (\d+\.\d+) to (\d+\.\d+) works", TEXT, re.DOTALL).groups()  # type: ignore[union-attr]
    major, minor = high.split(".")
    assert torch == f"torch>={low},<{major}.{int(minor) + 1}"
    pins = re.findall(r"torch==(\d+)\.(\d+)", TEXT)
    assert all((2, int(low.split(".")[1])) <= (int(a), int(b)) <= (int(major), int(minor)) for a, b in pins)
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in TEXT
    extras = set(re.findall(r'"\.\[(\w+)\]"', TEXT))
    assert extras
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_every_bitvar_command_parses() -> None:
    found = [words for words in commands(README) if Path(words[0]).name == "bitvar"]
    assert len(found) >= 12
    for words in found:
        try:
            parse(["bitvar", *words[1:]])
        except typer.Exit:  # --help
            pass
        except Exception as error:
            raise AssertionError(f"{shlex.join(words)}: {error!r}") from error


def test_files_that_commands_name_exist() -> None:
    named = [word for words in commands(README) for word in words if word.startswith(("recipes/", "tests/", "src/"))]
    assert any(word.startswith("recipes/") for word in named)
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every import and every attribute, on a tiny model in the embedded one's place."""
    (code,) = blocks(README, "python")
    pipeline = tiny_pipeline(tmp_path / "model")
    monkeypatch.setattr(InfinityPipeline, "from_pretrained", lambda: pipeline)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    assert (tmp_path / "apple.png").is_file()
    assert names["out"].seeds == [42]
    assert len(names["out"].metadata) == 1
    assert names["scale"].index == names["scale"].total - 1


def test_the_options_are_those_of_a_call() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    table = re.search(r"^\| option \| meaning \|\n\|[-|]*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table is not None
    named = [name for row in table[1].splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert named == [*GenerationKwargs.__annotations__, "output_type"]


def links() -> list[str]:
    return [link for link in LINK.findall(FENCE.sub("", TEXT)) if "://" not in link]


def test_there_are_links() -> None:
    assert len(links()) > 5


@pytest.mark.parametrize("link", links())
def test_a_relative_link_resolves(link: str) -> None:
    assert (ROOT / link.partition("#")[0]).exists()


def test_the_tree_names_what_exists() -> None:
    tree = next(text for text in blocks(README, "") if text.startswith("src/bitvar/"))
    names = re.findall(r"(?:^|(?<=\s))[\w.]+(?:/[\w.]*)*(?:/|\.py|\.md)(?=\s|$)", tree)
    assert len(names) > 20
    assert [name for name in names if find(name) is None and not (ROOT / "docs" / name).exists()] == []


def test_nothing_is_left_to_fill_in() -> None:
    assert re.findall(r"@@\w*@@|TODO|TBD|XXX", TEXT) == []
