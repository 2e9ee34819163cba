"""The notebooks of the docs run from top to bottom, and are kept without outputs."""

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = ROOT / "docs" / "notebooks"
NOTEBOOKS: Final = sorted(FOLDER.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"generate", "pyramid", "fine_tune"}


@each_notebook
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    assert path.read_text(encoding="utf-8").isascii()
    assert [cell for cell in cells(path, "code") if cell["outputs"] or cell["execution_count"] is not None] == []


@each_notebook
def test_every_cell_compiles(path: Path) -> None:
    for cell in cells(path, "code"):
        compile("".join(cell["source"]), str(path), "exec")


@pytest.mark.slow  # building the site runs them too, in .ci/run
@each_notebook
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", ""))))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not any(output.get("text", "").endswith("False") for output in shown)
