"""Strange values where a path, a name or a long list is expected: three lines, at once, and nothing written."""

import io
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import is_file_name
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.file_names import targets_of
from bitvar.pipeline.record import ImageRecord
from tests.support.tiny import tiny_pipeline

NO_PATHS = [5, b"x.png", "x\0.png", "", "x\ud800.png", io.BytesIO(), None, Path("x\0.png"), ["x.png"]]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("words"))


@pytest.fixture(autouse=True)
def as_users_meet_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tests' own checks of types, which would speak first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    "where", NO_PATHS, ids=lambda value: type(value).__name__ if isinstance(value, io.BytesIO) else repr(value)
)
def test_an_output_is_saved_to_paths_alone(
    pipeline: InfinityPipeline, where: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="why:"):
        pipeline("a dog").save(where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where",
    [Path("x\0.png"), "x\ud800", ""],
    ids=lambda value: type(value).__name__ if isinstance(value, io.BytesIO) else repr(value),
)
def test_a_model_is_saved_to_paths_alone(pipeline: InfinityPipeline, where: Any) -> None:
    with pytest.raises(UsageError, match="why:"):
        pipeline.save_pretrained(where)


@pytest.mark.parametrize(
    "names",
    [5, None, b"x", {"a": 1}, [5]],
    ids=lambda value: type(value).__name__ if isinstance(value, io.BytesIO) else repr(value),
)
def test_adapters_are_deleted_by_names_alone(pipeline: InfinityPipeline, names: Any) -> None:
    with pytest.raises(UsageError, match="why:"):
        pipeline.delete_adapters(names)


@pytest.mark.parametrize(
    ("text", "fits"), [("a", True), ("\u732b", True), ("a\udcff", True), ("", False), ("a\0", False), ("\ud800", False)]
)
def test_which_texts_a_file_can_be_called(text: str, fits: bool) -> None:
    assert is_file_name(text) == fits


@pytest.mark.parametrize("length", [244, 255])
def test_every_legal_name_is_a_target_and_longer_ones_are_refused(length: int, tmp_path: Path) -> None:
    [target] = targets_of(tmp_path / ("n" * (length - 4) + ".png"), [("a dog", 1)])
    target.path.write_bytes(b"")
    with pytest.raises(UsageError, match="too long"):
        targets_of(tmp_path / ("n" * 252 + ".png"), [("a dog", 1)])


def test_a_legal_name_of_255_bytes_is_saved(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    name = "n" * 251 + ".png"
    assert pipeline("a dog", seed=1).save(tmp_path / name) == [tmp_path / name]


@pytest.mark.parametrize(
    "option",
    [("--model", ""), ("--dtype", ""), ("--device", ""), ("--lora", ""), ("--lora", ":2"), ("--tokenizer", "")],
    ids=str,
)
def test_an_empty_option_is_refused_rather_than_ignored(
    option: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["generate", "a dog", *option])
    assert result.exit_code == 2, result.output
    assert "why:" in result.output or "Unknown dtype" in result.output
    assert list(tmp_path.iterdir()) == []


class Sizes(Config):
    sizes: tuple[int, ...]


def test_a_file_of_a_million_wrong_values_is_refused_without_a_list_of_them() -> None:
    with pytest.raises(UsageError, match="200,000 values are wrong"):
        Sizes.parse({"sizes": ["x"] * 200_000}, source="sizes.json")


def test_values_that_do_not_go_together_name_no_class() -> None:
    values = {"prompt": "a", "seed": 1, "width": 64, "height": 64, "guidance_scale": 1.0, "temperature": 1.0}
    with pytest.raises(UsageError, match=r"^The values in x don't go together\.") as caught:
        ImageRecord.parse(values | {"top_k": 0, "top_p": 0.0, "requested_width": 5}, source="x")
    assert "ImageRecord" not in str(caught.value)


@pytest.mark.parametrize(("name", "todo"), [("missing.png", "check the path"), ("text.png", "convert it")])
def test_the_cure_fits_what_is_wrong_with_an_image(name: str, todo: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UsageError, match=f"do:  {todo}"):
        require_image(tmp_path / name, ImageLimits(), todo="convert it")


def test_the_name_in_a_strangers_model_moves_no_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline(tmp_path)
    pipeline.components.index = pipeline.index.model_copy(update={"name": "evil\x1b[2J"})
    pipeline.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for command in (["generate", "a dog", "--model", "./model", "-o", "a.png"], ["models", "info", "./model"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
        assert "evil\\x1b[2J" in result.output
