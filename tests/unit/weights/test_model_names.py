"""What a model's name is bound to, which saved folders may be replaced, and names of models that would do nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitvar.errors import UsageError
from bitvar.lora.file import find_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.weights.describe import describe
from bitvar.weights.digests import require_replaceable, write_manifest
from bitvar.weights.hub import EMBEDDED_MODEL, EMBEDDED_TOKENIZER, resolve_model
from tests.support.tiny import tiny_pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = tmp_path / "words"
    words.mkdir()
    tiny_pipeline(words).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def name_of(folder: Path) -> str:
    write_manifest(folder)
    name = InfinityPipeline.from_pretrained(folder).model_name
    assert name.partition("@")[2] == describe(folder).digest[:12]
    return name


@pytest.mark.parametrize("added", ["vocabulary.json", "README.md", "LICENSE", "image_tokenizer/grids.json", "defaults"])
def test_what_computes_nothing_leaves_the_name_of_a_model(folder: Path, added: str) -> None:
    before = name_of(folder)
    if added == "defaults":
        index = json.loads((folder / "model_index.json").read_text())
        index["defaults"] = {"guidance_scale": 2.5}
        (folder / "model_index.json").write_text(json.dumps(index))
    elif added == "vocabulary.json":
        shutil.copy(EMBEDDED_MODEL / added, folder / added)
    else:
        (folder / added).write_text('{"grids": [[[1, 1]]]}' if added.endswith("json") else "words")
    assert name_of(folder) == before


@pytest.mark.parametrize("part", ["transformer", "image_tokenizer", "text_encoder"])
def test_what_computes_is_in_the_name_of_a_model(folder: Path, part: str) -> None:
    before = name_of(folder)
    config = folder / part / "config.json"
    config.write_text(config.read_text() + "\n")
    assert name_of(folder) != before


def test_the_same_tokenizer_from_its_own_folder_leaves_the_name() -> None:
    plain, named = (InfinityPipeline.from_pretrained(tokenizer=name) for name in (None, EMBEDDED_TOKENIZER))
    assert plain.model_name == named.model_name


@pytest.mark.parametrize("name", ["README.md", "model_index.json", "transformer/config.json"])
def test_a_folder_with_an_edited_text_is_not_replaced(folder: Path, name: str) -> None:
    require_replaceable(folder)
    (folder / name).write_text("precious")
    with pytest.raises(UsageError, match="edited since"):
        InfinityPipeline.from_pretrained().save_pretrained(folder)
    assert (folder / name).read_text() == "precious"


def test_line_ends_changed_by_git_are_no_edit(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    require_replaceable(folder)


@pytest.mark.parametrize("model", [None, "icons", EMBEDDED_MODEL])
def test_a_revision_that_would_do_nothing_is_refused(model: str | Path | None) -> None:
    with pytest.raises(UsageError, match="revision 'main' would do nothing"):
        resolve_model(model, "main")


def test_a_revision_of_an_adapter_s_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match="only an adapter of the hub has revisions"):
        find_adapter(tmp_path / "a.safetensors", "main")


@pytest.mark.parametrize("name", ["README.md", "transformer/model.safetensors"])
def test_a_pipe_in_a_model_is_described_or_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    command = [sys.executable, "-m", "bitvar.cli.main", "models", "info", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == (0 if name == "README.md" else 3), result.stderr
    assert "Traceback" not in result.stderr
