"""`bitvar evaluate scenes`: its options reach the evaluation, what it prints, and what it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bitvar.cli import main as cli
from bitvar.cli import scenes as command
from bitvar.evaluation.generation.evaluate import EvaluationSettings
from bitvar.evaluation.generation.frechet import FrechetMetric
from bitvar.icons.dataset.prompts import SPLITS
from tests.support.tiny import tiny_pipeline
from tests.unit.evaluation import test_generation as scenes

icon_set = scenes.icon_set  # the fixture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline(folder.parent, max_text_tokens=32).save_pretrained(folder)
    return folder


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], icon_set: Path) -> Any:
    metric = FrechetMetric(scenes.Means(), icon_set, "cpu")
    monkeypatch.setattr(command, "load_judge", lambda device: scenes.JUDGE)
    monkeypatch.setattr(command, "load_metrics", lambda data, network, device: [metric])

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", "evaluate", "scenes", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_the_command_prints_one_table_and_one_report(bitvar: Any, icon_set: Path, model: Path, tmp_path: Path) -> None:
    theirs = scenes.folder_of(tmp_path / "theirs", scenes.chosen_prompts(SPLITS, 2), wrong=["seen-two-01"])
    arguments = (
        icon_set,
        "--model",
        model,
        "--images",
        f"their-own-work={theirs}",
        "--limit",
        "2",
        "--device",
        "cpu",
    )
    code, out, err = bitvar(*arguments, "-o", tmp_path / "out")
    assert code == 0, err
    assert out.isascii() and "judging 42 images of tiny-blank" in err
    [two] = [line for line in out.splitlines() if line.startswith("| seen") and "| two" in line]
    cells = [cell.strip() for cell in two.strip("|").split("|")]
    assert cells == ["seen", "two", "2", "100.0 (34-100)", "50.0 (9-91)", *["0.0 (0-66)"] * 4, "-"]
    assert [line for line in out.splitlines() if line.startswith("| seen") and line.endswith(" 97.5/100.0 |")]
    for word in (
        "held out style",
        "colour pair",
        "tiny-shuffled",
        "s an image (cpu, float32",
        "their-own-work: frechet",
    ):
        assert word in out
    code, out, err = bitvar(*arguments, "-o", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    assert [entry["candidate"] for entry in json.loads(out)["candidates"]] == [
        "real",
        "their-own-work",
        "their-own-work-shuffled",
        "tiny",
        "tiny-shuffled",
        "tiny-blank",
    ]


def test_options_reach_the_evaluation(bitvar: Any, icon_set: Path, model: Path, tmp_path: Path) -> None:
    given = (
        *("--model", f"mine={model}", "--split", "paraphrase", "--split", "seen", "--limit", "1", "--seeds", "2"),
        *("--no-references", "--guidance", "2.5", "--temperature", "0.5", "--batch-size", "5", "--dtype", "fp32"),
        *("--device", "cpu", "--feature-network", "inception"),
    )
    code, _, err = bitvar(icon_set, *given, "-o", tmp_path / "out")
    assert code == 0, err
    settings = EvaluationSettings.load(tmp_path / "out" / "settings.json")
    assert (settings.splits, settings.limit, settings.seeds) == (("seen", "paraphrase"), 1, 2)
    assert (settings.guidance, settings.temperature, settings.batch_size) == (2.5, 0.5, 5)
    assert (settings.references, settings.feature_network, settings.dtype) == (False, "inception", "float32")
    assert [named.label for named in settings.models] == ["mine"] and settings.models[0].sha256
    assert settings.metrics == ("frechet",) and settings.judge == "reader"
    assert len(list((tmp_path / "out" / "images" / "mine").glob("*.png"))) == 28


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--split", "sean"), "did you mean 'seen'"),
        (("--images", "nothing"), "write --images label=FOLDER"),
        (("--images", "real=here"), "Can't call a candidate 'real'"),
        (("--images", "a=/no/such/folder"), "There is no folder"),
        (("--model", "real=icons"), "Can't call a candidate 'real'"),
        (("--model", "icons", "--model", "icons"), "Can't call a candidate 'icons'"),
        (("--limit", "0"), "--limit"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_what_the_command_refuses(
    bitvar: Any, icon_set: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = bitvar(icon_set, *arguments, "-o", tmp_path / "out", "--device", "cpu")
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_icon_set_is_refused(bitvar: Any, tmp_path: Path) -> None:
    code, _, err = bitvar(tmp_path, "-o", tmp_path / "out")
    assert code == 2 and "is no icon set" in err
