"""`bitvar generate --lora`: what it takes, what the image says, and that it is made again with the same adapters."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from bitvar.cli import main as cli
from bitvar.cli.lora import read_option
from bitvar.lora.file import WEIGHTS
from bitvar.lora.layers import LoraBase, LoraSettings, save_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.record import read_record
from tests.support.tiny import tiny_components
from tests.unit.lora.test_lora import rough, trained


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one` and `two`, said to be made for another model."""
    folder = tmp_path_factory.mktemp("adapters")
    settings, base = LoraSettings(rank=2), LoraBase(name="tiny", transformer="0" * 64)
    for seed, name in enumerate(("one", "two")):
        model = rough()
        trained(model, name, seed=seed, settings=settings)
        save_adapter(model, folder / name, name=name, settings=settings, base=base)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    InfinityPipeline(replace(tiny_components(folder), transformer=rough())).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> Any:
    """`bitvar generate` with the tiny model: exit code, and what went to stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", "generate", *map(str, arguments), "--model", str(model)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.err

    return run


def test_the_command_takes_adapters_and_makes_the_image_again(bitvar: Any, adapters: Path) -> None:
    one, two = adapters / "one", adapters / "two" / WEIGHTS
    code, err = bitvar("a red dog", "--seed", 1, "-o", "plain.png")
    assert code == 0, err
    code, err = bitvar("a red dog", "--seed", 1, "-o", "a.png", "--lora", f"{one}:0.8", "--lora", two)
    assert code == 0, err
    assert "Note: The adapter 'one' was made for another model" in err
    assert Path("plain.png").read_bytes() != Path("a.png").read_bytes()
    entries = read_record(Path("a.png")).lora
    assert [(entry.name, entry.weight) for entry in entries] == [("one", 0.8), ("pytorch_lora-weights", 1.0)]
    assert str(adapters) not in read_record(Path("a.png")).json_text()
    code, err = bitvar("--from", "a.png", "-o", "b.png", "--lora", one, "--lora", two)
    assert code == 0, err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_making_an_image_again_takes_its_own_adapters(bitvar: Any, adapters: Path) -> None:
    one, two = adapters / "one", adapters / "two"
    assert bitvar("a red dog", "-o", "a.png", "--lora", one)[0] == 0
    assert bitvar("a red dog", "-o", "plain.png")[0] == 0
    for options, words in (
        ((), "made with: one (sha256"),
        (("--lora", two), "is sha256"),
        (("--lora", one, "--lora", two), "aren't those of the image"),
        (("--lora", f"{one}:0.5"), "leave out the colon"),
    ):
        code, err = bitvar("--from", "a.png", "-o", "b.png", *options)
        assert (code, Path("b.png").exists()) == (2, False), err
        assert words in err
    code, err = bitvar("--from", "plain.png", "-o", "b.png", "--lora", one)
    assert code == 2
    assert "made with: none" in err


@pytest.mark.parametrize(
    "entries", [[{"name": "a"}], "one", [3], [{"name": "a", "weight": 1, "source": None, "sha256": "", "fused": True}]]
)
def test_images_that_can_not_be_made_again_say_why(bitvar: Any, entries: Any) -> None:
    assert bitvar("a red dog", "-o", "a.png")[0] == 0
    settings = json.loads(read_record(Path("a.png")).json_text()) | {"lora": entries}
    info = PngImagePlugin.PngInfo()
    info.add_itxt("bitvar", json.dumps(settings))
    Image.open("a.png").save("c.png", pnginfo=info)
    code, err = bitvar("--from", "c.png", "-o", "d.png")
    assert code == 2
    assert "why:" in err


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("nowhere", 2, "There is no adapter 'nowhere'"),
        ("a.pt", 3, "pickles could run code"),
        ("one:strong", 2, "'strong' after the last colon is not a number"),
        ("one:nan", 2, "is nan"),
    ],
)
def test_bad_adapters_on_the_command_line(bitvar: Any, adapters: Path, option: str, code: int, words: str) -> None:
    Path("one").symlink_to(adapters / "one")
    found, err = bitvar("a dog", "-o", "x.png", "--lora", option)
    assert (found, Path("x.png").exists()) == (code, False)
    assert words in err


def test_the_folder_of_a_run_hints_at_the_adapter_inside(bitvar: Any, adapters: Path) -> None:
    Path("runs").mkdir()
    shutil.copytree(adapters / "one", "runs/mine/lora")
    assert bitvar("a dog", "-o", "plain.png")[0] == 0
    for options in (("a dog",), ("--from", "plain.png")):
        code, err = bitvar(*options, "-o", "x.png", "--lora", "runs/mine:0.5")
        assert (code, Path("x.png").exists()) == (2, False), err
        assert "give --lora runs/mine/lora" in err


def test_a_colon_may_be_part_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_option("owner/style") == ("owner/style", None)
    assert read_option("owner/style:-0.5") == ("owner/style", -0.5)
    Path("a:2").mkdir()
    assert read_option("a:2") == ("a:2", None)
    assert read_option("a:2:3") == ("a:2", 3.0)


def test_adapters_of_one_name_are_numbered(bitvar: Any, adapters: Path) -> None:
    for folder in ("x", "y"):
        Path(folder).mkdir()
        (Path(folder) / "train.safetensors").write_bytes((adapters / "two" / WEIGHTS).read_bytes())
    options = ("--lora", "x/train.safetensors", "--lora", "y/train.safetensors")
    assert bitvar("a dog", "-o", "a.png", *options)[0] == 0
    names = [entry.name for entry in read_record(Path("a.png")).lora]
    assert names == ["train-lora", "train-lora-2"]
