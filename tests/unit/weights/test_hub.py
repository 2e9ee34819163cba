"""One resolver of the names of models and tokenizers, and what it says of everything that is neither."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from typer.testing import CliRunner

from bitvar.cli.main import app
from bitvar.codec import ImageCodec
from bitvar.errors import UsageError, WeightsError
from bitvar.pipeline import InfinityPipeline
from bitvar.weights.hub import (
    EMBEDDED_MODEL,
    EMBEDDED_TOKENIZER,
    FINE_TOKENIZER,
    require_model_folder,
    resolve_model,
)
from bitvar.weights.model_folder import load_folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    class ConnectError(Exception):
        pass

    def fail(name: str, **options: Any) -> str:
        asked.append(name)
        try:
            raise ConnectError("[Errno -3] Temporary failure in name resolution")
        except ConnectError as error:
            raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nand more") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    return asked


PACKAGED = {"icons": EMBEDDED_MODEL, "general": EMBEDDED_TOKENIZER, "fine": FINE_TOKENIZER}


@pytest.mark.parametrize("name", list(PACKAGED))
@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_names_in_the_package(name: str, what: str) -> None:
    assert resolve_model(name, what=what) == PACKAGED[name]
    assert resolve_model(Path(name), what=what) == PACKAGED[name]


def test_the_pipeline_and_the_codec_take_names() -> None:
    pipeline = InfinityPipeline.from_pretrained("icons", tokenizer="general", dtype="fp32", device="cpu")
    assert pipeline.index.name == "icons"
    again = InfinityPipeline.from_pretrained("icons", tokenizer="icons", dtype="fp32", device="cpu")
    assert again.components.tokenizer_identity == pipeline.components.tokenizer_identity
    assert ImageCodec.from_pretrained("fine", device="cpu").identity.name
    assert ImageCodec.from_pretrained("icons", device="cpu").identity == pipeline.components.tokenizer_identity


def test_a_tokenizer_given_as_a_model_is_told_apart() -> None:
    with pytest.raises(WeightsError, match=r"it is a tokenizer[\s\S]*--tokenizer"):
        InfinityPipeline.from_pretrained("general")


def test_a_folder_here_counts_first_and_that_is_told(elsewhere: Path) -> None:
    (elsewhere / "icons").mkdir()
    with pytest.warns(UserWarning, match=r"icons is used, not the model 'icons' in the package") as caught:
        assert resolve_model("icons") == Path("icons")
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="is used"), pytest.raises(WeightsError, match="leave the option out"):
        InfinityPipeline.from_pretrained("icons")


def test_defaults_are_no_names(elsewhere: Path) -> None:
    for name in PACKAGED:
        (elsewhere / name).mkdir()
    assert InfinityPipeline.from_pretrained(dtype="fp32", device="cpu").index.name == "icons"
    assert ImageCodec.from_pretrained(device="cpu").identity.name == "general-tokenizer"


@pytest.mark.parametrize("name", ["icon", "Icons", "ICONS", "icns", "generl", "Fine"])
def test_a_near_miss_gets_the_name(name: str, no_network: list[str]) -> None:
    right = {"i": "icons", "g": "general", "f": "fine"}[name[0].lower()]
    with pytest.raises(UsageError, match=f"did you mean '{right}'"):
        resolve_model(name)
    assert no_network == []


@pytest.mark.parametrize("name", ["zebra", "./zebra", "/zebra/x", "~/zebra", "a/b/c", "", "models/"])
def test_what_can_not_be_a_hub_id_is_not_looked_up(name: str, no_network: list[str]) -> None:
    with pytest.raises(UsageError, match="no such folder" if name else "the name is empty"):
        resolve_model(name)
    assert no_network == []


def test_a_missing_folder_is_said_before_the_hub(no_network: list[str]) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_model("missing/dir")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("There is no folder 'missing/dir'")
    assert "hub" in lines[0]
    assert lines[1] == "  why: the network can't be reached, and it is not in the cache"
    assert len(lines) == 3
    assert "ConnectError" not in str(caught.value)
    assert no_network == ["missing/dir"]


@pytest.mark.parametrize("model", [5, b"icons", ["icons"], 1.5])
def test_what_is_no_name(model: Any) -> None:
    plain = inspect.unwrap(resolve_model)  # the tests' own check of types comes first otherwise
    with pytest.raises(UsageError, match="neither a name nor a path"):
        plain(model)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobodyatall/x", "a/" + "y" * 300])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises((UsageError, WeightsError), match=r"There is no"):
        resolve_model(name)


def test_home_is_expanded(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    (elsewhere / "mine").mkdir()
    assert resolve_model("~/mine") == elsewhere / "mine"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.pth", "bitvar convert"),
        ("mine.safetensors", "--lora"),
        ("model_index.json", "give the folder"),
        ("cat.png", "give the folder"),
    ],
)
def test_a_file(elsewhere: Path, name: str, hint: str) -> None:
    (elsewhere / name).write_text("x")
    with pytest.raises(UsageError, match=rf"is a file[\s\S]*{hint}"):
        resolve_model(name)


def folder_of_a_run(folder: Path) -> None:
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True)


def finished_run(folder: Path) -> None:
    folder_of_a_run(folder)
    (folder / "model").mkdir()
    shutil.copy(EMBEDDED_MODEL / "model_index.json", folder / "model")


def checkpoint(folder: Path) -> None:
    (folder / "state.json").write_text("{}")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def official(folder: Path) -> None:
    (folder / "infinity_2b_reg.pth").write_bytes(b"x")


def outer(folder: Path) -> None:
    (folder / "mine").mkdir()
    shutil.copy(EMBEDDED_MODEL / "model_index.json", folder / "mine")


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (folder_of_a_run, "bitvar export"),
        (finished_run, r"give the model it made: .*/model"),
        (checkpoint, "bitvar export"),
        (adapter, "--lora"),
        (official, "bitvar convert"),
        (outer, "give the model inside: .*mine"),
        (lambda folder: None, "give a folder made by bitvar"),
    ],
)
def test_a_folder_without_an_index(elsewhere: Path, make: Any, hint: str) -> None:
    (elsewhere / "given").mkdir()
    make(elsewhere / "given")
    with pytest.raises(WeightsError, match=rf"model_index\.json[\s\S]*{hint}") as caught:
        require_model_folder(elsewhere / "given")
    assert len(str(caught.value).splitlines()) == 3


def test_a_part_of_a_model() -> None:
    with pytest.raises(WeightsError, match=r"a part of a model[\s\S]*give the whole: .*icons"):
        require_model_folder(EMBEDDED_MODEL / "transformer")


def test_the_commands_take_names(elsewhere: Path) -> None:
    command = ["generate", "a dog", "--seed", "1", "--model", "icons", "-o", "x.png", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    assert (elsewhere / "x.png").is_file()
    for name in PACKAGED:
        result = CliRunner().invoke(app, ["tokenizer", "encode", "x.png", "-o", f"{name}.bits", "--tokenizer", name])
        assert result.exit_code == 0, result.stderr
        result = CliRunner().invoke(
            app, ["tokenizer", "decode", f"{name}.bits", "-o", f"{name}.png", "--tokenizer", name]
        )
        assert result.exit_code == 0, result.stderr


def test_another_tokenizer_of_another_kind_is_refused(elsewhere: Path) -> None:
    with pytest.raises(WeightsError, match="does not belong"):
        load_folder(EMBEDDED_MODEL, dtype=torch.float32, device=torch.device("cpu"), tokenizer=FINE_TOKENIZER)
