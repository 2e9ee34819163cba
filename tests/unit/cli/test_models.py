"""`bitvar models list` and `bitvar models info`."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.errors import WeightsError
from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.pipeline import InfinityPipeline
from bitvar.weights.describe import describe
from bitvar.weights.hub import EMBEDDED_TOKENIZER


def run(*command: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *command])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_the_list_names_what_comes_with_the_package() -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines] == ["icons", "general", "fine"]
    assert "153 concepts" in lines[0]
    rows = json.loads(run("list", "--json"))
    assert [(row["name"], row["kind"]) for row in rows] == [
        ("icons", "model"),
        ("general", "tokenizer"),
        ("fine", "tokenizer"),
    ]


def test_the_embedded_model() -> None:
    pipeline = InfinityPipeline.from_pretrained(dtype="fp32", device="cpu")
    text = run("info")
    for concept in CONCEPTS:
        assert concept.name in " ".join(text.split())
    for word in ("64x64", "fp16", "Twemoji", "apache-2.0", "purple", "grey", "four", "a star above a house"):
        assert word in text
    facts = json.loads(run("info", "icons", "--json"))
    assert facts["parameters"]["transformer"] == sum(p.numel() for p in pipeline.transformer.parameters())
    assert facts["parameters"]["image_tokenizer"] == sum(p.numel() for p in pipeline.tokenizer.parameters())
    assert facts["sizes"] == [f"{w}x{h}" for w, h in pipeline.sizes]
    assert pipeline.model_name.endswith(facts["digest"])
    assert facts["defaults"]["temperature"] == 0.25
    assert sum(map(len, facts["knows"]["concepts"].values())) == 153
    assert all(len(line) <= 110 for line in text.splitlines() if "bitvar generate" not in line and "/" not in line)


@pytest.mark.parametrize("name", ["general", "fine"])
def test_a_tokenizer(name: str) -> None:
    facts = json.loads(run("info", name, "--json"))
    assert facts["kind"] == "tokenizer"
    assert facts["knows"] is None
    assert "sizes" not in facts
    assert facts["bits_per_cell"] == 16
    assert "knows" not in run("info", name).lower()


def test_a_folder_without_words(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    (folder / "vocabulary.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "text_encoder")
    text = run("info", str(folder))
    assert "none: convert the model again" in text
    assert "concepts" not in text


def test_what_is_no_model(tmp_path: Path) -> None:
    assert "did you mean 'icons'" in run("info", "icon", code=2)
    assert "model_index.json" in run("info", str(tmp_path), code=3)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0[1, 2]  ", b"\x0a\0\0\0\0\0\0\0" + b'{"a":null}']
)
def test_damaged_weights_are_told(tmp_path: Path, content: bytes) -> None:
    folder = Path(shutil.copytree(EMBEDDED_TOKENIZER, tmp_path / "mine"))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError):
        describe(folder)
