"""`bitvar evaluate stickers`: its options reach the evaluation, what it prints, and what it refuses."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.cli import main as cli
from bitvar.cli import stickers as command
from bitvar.evaluation.benchmarks.base import JudgeInfo
from bitvar.evaluation.generation.evaluate import EvaluationSettings, select_prompts
from bitvar.icons.stickers.benchmark.benchmark import Judge, eval_prompts
from bitvar.icons.stickers.benchmark.rules import Detection, Detections
from tests.support.tiny import tiny_pipeline

ACCURACY = {"noun": {"true_positive_rate": 0.9, "true_negative_rate": 0.99}}


def detect(images: Float[Tensor, "b 3 256 256"], heads: Sequence[int]) -> list[Detections]:
    """See a dog where the corner is red, or nothing."""
    dog = Detection((0.1, 0.1, 0.9, 0.9), 0.9, {"dog": 0.9}, {"red": 0.9})
    return [Detections((dog,) if image[1, 0, 0] < 0 else (), {"white": 1.0}) for image in images]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    rows = []
    for prompt in select_prompts(eval_prompts(), limit=2):
        Image.new("RGB", (16, 16), "red").save(folder / f"{prompt.id}.png")
        rows.append({"image_path": f"{prompt.id}.png", "prompt_id": prompt.id, "split": "val"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(command, "load_judge", lambda device: Judge(JudgeInfo("red", "0" * 64, ACCURACY), detect))
    monkeypatch.setattr(command, "load_metrics", lambda device: [])

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", "evaluate", "stickers", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_command_prints_skills_and_atoms(bitvar: Any, real: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    tiny_pipeline(tmp_path, max_text_tokens=32).save_pretrained(model)
    arguments = (real, "--model", model, "--split", "open", "--limit", "2", "--device", "cpu", "-o", tmp_path / "out")
    code, out, err = bitvar(*arguments)
    assert code == 0, err
    [noun] = [line for line in out.splitlines() if line.startswith("| open") and "| noun" in line]
    cells = [cell.strip() for cell in noun.strip("|").split("|")]
    assert cells[:4] == ["open", "noun", "2", "50.0 (9-91)"] and cells[-1] == "90.0/99.0"  # a dog, and a cat
    assert [line for line in out.splitlines() if line.startswith("| atoms") and "name atom" in line]
    assert "tiny-shuffled" in out and "tiny-blank" in out
    settings = EvaluationSettings.load(tmp_path / "out" / "settings.json")
    assert (settings.benchmark, settings.judge, settings.splits, settings.limit) == ("stickers", "red", ("open",), 2)
    assert settings.feature_network is None
    again = bitvar(*arguments, "--json")
    assert next(entry["candidate"] for entry in json.loads(again[1])["candidates"]) == "real"


def test_every_skill_of_real_images_has_a_row(bitvar: Any, real: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for prompt in select_prompts(eval_prompts(), limit=2):
        Image.new("RGB", (8, 8), "white").save(theirs / f"{prompt.id}.png")
    code, out, err = bitvar(real, "--images", f"theirs={theirs}", "--limit", "2", "-o", tmp_path / "out")
    assert code == 0, err
    shown = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in out.splitlines() if line.startswith("| ")}
    assert {(prompt.split, prompt.skill.replace("_", " ")) for prompt in eval_prompts()} <= shown
    assert {("unseen", "atoms"), ("unseen", "mean"), ("atoms", "size atom"), ("atoms", "relation atom")} <= shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--split", "opne"), "did you mean 'open'"), (("--images", "a=/no/such/folder"), "There is no folder")],
)
def test_what_the_command_refuses(
    bitvar: Any, real: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = bitvar(real, *arguments, "-o", tmp_path / "out", "--device", "cpu")
    assert (code, out) == (2, "") and words in err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_real_images_is_refused(bitvar: Any, tmp_path: Path) -> None:
    code, _, err = bitvar(tmp_path, "-o", tmp_path / "out")
    assert code == 2 and "sticker_references.py" in err
