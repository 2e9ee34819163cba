"""Published benchmarks from the command line: both stages on the package's own model, with tiny scoring networks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bitvar.cli.main import app
from tests.support.field import GENEVAL2_ROWS, dpg_questions, prompts_file
from tests.support.scorers import imagereward_tensors, open_clip_tensors, tiny_clip, tiny_detector, word_tokenizer
from tests.support.tiny import toy_set

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("networks")
    tiny_clip(root / "clip")
    tiny_detector(root / "detector")
    word_tokenizer(root / "words", length=64)
    torch.save({"state_dict": open_clip_tensors()}, root / "hps.pt")
    torch.save(imagereward_tensors(), root / "imagereward.pt")
    return root


def run(*words: str | Path, code: int = 0) -> Any:
    """Run `bitvar evaluate` and return its JSON, or the whole output without `--json`."""
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert done.exit_code == code, done.output + repr(done.exception)
    return json.loads(done.stdout) if "--json" in words and code == 0 else done.output


def both(name: str, out: Path, *options: str | Path, draw: tuple[str | Path, ...] = (), **more: Any) -> dict[str, Any]:
    """Run both stages and check what every report has in common."""
    settings = run(name, "generate", "-o", out, "--batch-size", "4", *draw, "--json")
    report = run(name, "score", out, *options, "--json")
    assert report["images"] == settings and settings["model"].startswith("icons@")
    assert len(settings["model_sha256"]) == len(report["prompts"]["sha256"]) == 64
    assert report["scorer"]["name"] and settings["benchmark"] == name
    for values in report["variants"].values():
        assert values["images"] > 0 and values["results"][-1]["score"] == values["overall"]
    return report


def test_geneval(networks: Path, tmp_path: Path) -> None:
    rows = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
        {"tag": "colors", "include": [{"class": "bed", "count": 1, "color": "red"}], "prompt": "a photo of a red bed"},
    ]
    given = prompts_file(tmp_path / "metadata.jsonl", rows)
    scorer = ("--detector", networks / "detector", "--clip", networks / "clip", "--prompts", given)
    report = both("geneval", tmp_path / "out", *scorer, draw=("--prompts", given, "--images-per-prompt", "1"))
    assert [row["skill"] for row in report["variants"]["raw"]["results"]] == ["single_object", "colors", "mean"]
    assert "not the published mmdet scorer" in report["scorer"]["name"] and len(report["scorer"]["sha256"]) == 64


def test_geneval2_by_a_published_script(tmp_path: Path) -> None:
    given = prompts_file(tmp_path / "data.jsonl", GENEVAL2_ROWS)
    script = tmp_path / "clone" / "evaluation.py"
    script.parent.mkdir()
    script.write_text(
        "import json, sys\n"
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "rows = [json.loads(line) for line in open(options['--benchmark_data'])]\n"
        "paths = json.load(open(options['--image_filepath_data']))\n"
        "assert all(open(paths[row['prompt']], 'rb').read(4) == b'\\x89PNG' for row in rows)\n"
        "json.dump([[0.25] * len(row['skills']) for row in rows], open(options['--output_file'], 'w'))\n"
    )
    own = ("--scorer", "own", "--checkout", script.parent, "--python", sys.executable, "--prompts", given)
    report = both("geneval2", tmp_path / "out", *own, draw=("--prompts", given))
    assert report["variants"]["raw"]["overall"] == pytest.approx(0.25)
    printed = run("geneval2", "score", tmp_path / "out", *own, "--print-command")
    assert printed.startswith(f"{sys.executable} {script} --benchmark_data")
    subprocess.run(printed, shell=True, check=True)
    assert run("geneval2", "score", tmp_path / "out", *own, "--collect", "--json")["variants"] == report["variants"]


def test_dpg_by_a_published_script(tmp_path: Path) -> None:
    clone = tmp_path / "clone" / "dpg_bench"
    clone.mkdir(parents=True)
    dpg_questions(clone / "dpg_bench.csv", ["0"])
    (clone / "compute_dpg_bench.py").write_text(
        "import os, sys\n"
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "assert (options['--resolution'], options['--pic-num']) == ('64', '4')\n"
        "with open(options['--res-path'], 'w') as file:\n"
        "    for name in os.listdir(options['--image-root-path']):\n"
        "        path = os.path.join(options['--image-root-path'], name)\n"
        "        file.write(f'{path}, 1.0, 0.5, 0.0, 0.5, 0.5\\n')\n"
        "    file.write('DPG-Bench score: 50.0\\n')\n"
    )
    own = ("--scorer", "own", "--checkout", clone.parent, "--python", sys.executable)
    report = both("dpg", tmp_path / "out", *own, draw=("--limit", "1", "--cut-prompts"))
    assert report["variants"]["raw"]["overall"] == 0.5
    assert report["images"]["cut_prompts"] == 1


def test_hpsv2(networks: Path, tmp_path: Path) -> None:
    for style in ("anime", "concept-art", "paintings", "photo"):
        prompts_file(tmp_path / "p" / f"{style}.json", ["a red dog"], as_list=True)
    scorer = ("--checkpoint", networks / "hps.pt", "--tokenizer", networks / "clip", "--prompts", tmp_path / "p")
    report = both("hpsv2", tmp_path / "out", *scorer, draw=("--prompts", tmp_path / "p"))
    assert [row["skill"] for row in report["variants"]["raw"]["results"]][-1] == "mean"
    assert all(-100 <= row["score"] <= 100 for row in report["variants"]["raw"]["results"])


def test_hpsv3_by_its_package(tmp_path: Path) -> None:
    given = prompts_file(tmp_path / "p.jsonl", [{"prompt": "a dog", "category": "Animals"}])
    package = tmp_path / "site" / "hpsv3.py"
    package.parent.mkdir()
    package.write_text(
        "class HPSv3RewardInferencer:\n"
        "    def reward(self, image_paths, prompts):\n"
        "        return [[float(len(prompt)), 1.0] for prompt in prompts]\n"
    )
    python = f"env PYTHONPATH={package.parent} {sys.executable}"
    report = both("hpsv3", tmp_path / "out", "--python", python, "--prompts", given, draw=("--prompts", given))
    assert report["variants"]["raw"]["overall"] == 5.0


def test_imagereward_of_raw_and_rewritten_prompts(networks: Path, tmp_path: Path) -> None:
    rows = [{"id": "p0", "prompt": "a dog"}, {"id": "p1", "prompt": "a cat"}]
    given = prompts_file(tmp_path / "p.json", rows, as_list=True)
    rewrites = [{"prompt": row["prompt"], "rewritten": f"{row['prompt']}, flat emoji", "model": "hand"} for row in rows]
    draw = ("--prompts", given, "--rewrites", prompts_file(tmp_path / "r.jsonl", rewrites), "--images-per-prompt", "1")
    scorer = ("--checkpoint", networks / "imagereward.pt", "--tokenizer", networks / "words", "--prompts", given)
    report = both("imagereward", tmp_path / "out", *scorer, draw=draw)
    assert list(report["variants"]) == ["raw", "rewritten"]
    assert report["variants"]["raw"]["overall"] != report["variants"]["rewritten"]["overall"]
    assert report["images"]["rewrites_sha256"]


def test_fid_of_drawn_captions(tmp_path: Path) -> None:
    data, network = toy_set(tmp_path / "set"), ("--feature-network", "mobilenet", "--json")
    run("fid", "generate", data, "-o", tmp_path / "out", "--limit", "2", "--json")
    kept = run("fid", "statistics", data, "--split", "val", "-o", tmp_path / "s.npz", *network)
    assert kept["images"] == 3
    result = ("-o", tmp_path / "r.json")
    report = run("fid", "score", tmp_path / "out", "--reference", tmp_path / "s.npz", *network, *result)
    assert (report["images"]["count"], report["reference"]["count"]) == (2, 3)
    assert report["generation"]["benchmark"] == "fid" and report["fid"] > 0
    assert json.loads((tmp_path / "r.json").read_text()) == report


def test_val_loss(tmp_path: Path) -> None:
    data = toy_set(tmp_path / "set")
    report = run("val-loss", data, "-o", tmp_path / "r.json", "--json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert 0 < report["results"]["clean"]["loss"] < 2 and len(report["results"]["clean"]["scales"]) == 4
    shown = run("val-loss", data, "--flip-strength", "0", "--limit", "1")
    assert "self-correction" not in shown and "1 images of 64x64" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("geneval2", "generate", "-o", "{}/out"), "--prompts"),
        (("hpsv2", "generate", "-o", "{}/out"), "hf download zhwang/HPDv2"),
        (("geneval", "score", "{}/none"), "no such folder"),
        (("geneval", "generate", "-o", "{}/out", "--variant", "raws"), "did you mean 'raw'"),
        (
            ("imagereward", "generate", "-o", "{}/out", "--limit", "1", "--variant", "rewritten"),
            "no rewrites are given",
        ),
        (("geneval", "generate", "-o", "{}/out", "--size", "64"), "512x512"),
        (("val-loss", "{}/none"), "check the path"),
        (("fid", "score", "{}", "--reference", "{}", "--feature-network", "mobilenet"), "at least two images"),
        (("fid", "score", "{}", "--reference", "{}", "--feature-network", "resnet"), "resnet"),
    ],
    ids=["prompts", "hub prompts", "folder", "variant", "rewrites", "size", "set", "no images", "network"],
)
def test_mistakes_are_explained(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "a.txt").touch()
    output = run(*(word.format(tmp_path) for word in words), code=2)
    assert message in output
    assert not (tmp_path / "out").exists()


def test_a_missing_checkpoint_is_explained(tmp_path: Path) -> None:
    rows = prompts_file(tmp_path / "p.json", [{"id": "p0", "prompt": "a dog"}], as_list=True)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (16, 16)).save(images / "p0_0.png")
    base = ("imagereward", "score", images, "--prompts", rows, "-o", tmp_path / "s")
    assert "hf download THUDM/ImageReward" in run(*base, code=2)
    assert "needs --scorer own" in run(*base, "--print-command", code=2)
    assert "did you mean 'own'" in run(*base, "--scorer", "owns", code=2)
    printed = run(*base, "--scorer", "own", "--print-command")
    assert printed.startswith("uv run --isolated --no-project --python") and "image-reward==1.5" in printed
    assert not (tmp_path / "s" / "report.json").exists()


@pytest.mark.slow
def test_more_prompts_of_geneval_in_two_processes(networks: Path, tmp_path: Path) -> None:
    words = ["evaluate", "geneval", "generate", "-o", str(tmp_path / "out"), "--limit", "4", "--batch-size", "4"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "bitvar", *words]
    children = [subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(i), "RANK": str(i)}) for i in range(2)]
    assert [child.wait(timeout=600) for child in children] == [0, 0]
    scorer = ("--detector", networks / "detector", "--clip", networks / "clip")
    report = run("geneval", "score", tmp_path / "out", *scorer, "--json")
    assert report["variants"]["raw"]["images"] == 96
