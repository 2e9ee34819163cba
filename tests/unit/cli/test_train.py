"""`bitvar train` as users give it: from an index, from a model, with adapters, on two processes, kept alive."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bitvar.cli import main as cli
from bitvar.data.index_writing import build_index
from bitvar.data.records import ReadOptions
from bitvar.pipeline import InfinityPipeline
from tests.support.ranks import ROOT
from tests.support.tiny import SCHEDULES, TEXT_WIDTH, tiny_pipeline
from tests.unit.training.test_distributed import tensors
from tests.unit.training.test_streaming import make_images

RECIPE = f"""
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.lora.layers import LoraSettings
from bitvar.transformer import TransformerConfig

def recipe(steps: int = 4, adapters: int = 0) -> TransformerTraining:
    return TransformerTraining(
        model=TransformerConfig(
            depth=2, width=32, num_heads=2, bits=4, text_width={TEXT_WIDTH}, max_text_tokens=16, max_scales=4,
            schedules={SCHEDULES!r},
        ),
        optimization=OptimizationConfig(
            steps=steps, batch_size=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, precision="fp32",
        ),
        intervals=IntervalConfig(log=1, validation=100, sample=100, save=2),
        cut_caption=0.3,
        first_caption=0.5,
        lora=LoraSettings(rank=adapters) if adapters else None,
    )
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a finished model of its sizes, and an index of images of two ratios."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "recipe.py").write_text(RECIPE)
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    build_index(
        make_images(folder / "images"), folder / "index", validation=0.2, options=ReadOptions(caption_lines=True)
    )
    return folder


def words(work: Path, out: Path, *more: str) -> list[str]:
    given = [work / "recipe.py", "--data", work / "index", "--init", work / "tiny", "--out", out]
    return ["bitvar", "train", *map(str, given), "--device", "cpu", "--workers", "0", *more]


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0
) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert (stop.value.code or 0) == code, err
    return out, err


def launch(arguments: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bitvar.cli.main", *arguments[1:]]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_run_from_an_index_makes_a_model(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(monkeypatch, capsys, words(work, tmp_path, "--tracker", "tensorboard"))
    assert out.strip() == str(tmp_path / "model")
    assert "batch 4 = 1 rank x 1 micro-batch of 4; peak learning rate 0.01 (not scaled by batch size)" in err
    made = InfinityPipeline.from_pretrained(tmp_path / "model")
    assert made("a red square", seed=0).images[0].size == (16, 16)
    before = InfinityPipeline.from_pretrained(work / "tiny")
    assert not torch.equal(made.transformer.head.weight, before.transformer.head.weight)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train"] * 4 + ["validation"]
    assert all(line["teraflops"] > 0 for line in lines[:4])
    assert list((tmp_path / "tensorboard").iterdir())
    again, err = run(monkeypatch, capsys, words(work, tmp_path))
    assert "finished already, at step 4" in err
    assert again == out


def test_how_it_runs_may_change_between_restarts(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, capsys, words(work, tmp_path / "whole"))
    stopped = launch(
        words(work, tmp_path / "cut", "--recipe-arg", "steps=4", "--micro-batch", "2", "--activation-checkpointing")
    )
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if line.startswith("step 2/"):
            stopped.send_signal(signal.SIGKILL)
            break
    stopped.wait(30)
    stopped.stderr.close()
    assert stopped.stdout is not None
    stopped.stdout.close()
    run(monkeypatch, capsys, words(work, tmp_path / "cut", "--workers", "1"))
    ours, theirs = tensors(tmp_path / "cut", 4), tensors(tmp_path / "whole", 4)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-4


def test_adapters_are_trained_and_leave_the_model_alone(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(
        work,
        tmp_path,
        "--recipe-arg",
        "adapters=3",
        "--recipe-arg",
        "steps=20",
        "--set",
        "optimization.learning_rate=0.1",
    )
    out, _ = run(monkeypatch, capsys, given)
    assert out.strip() == str(tmp_path / "lora")
    saved = load_file(tmp_path / "checkpoints" / "step-00000020" / "model.safetensors")
    assert saved
    assert all(".lora_" in name for name in saved)
    pipe = InfinityPipeline.from_pretrained(work / "tiny")
    prompts = ["a red square"] * 8
    before = pipe(prompts, seed=0, output_type="bits").images
    pipe.load_lora_weights(tmp_path / "lora")
    after = pipe(prompts, seed=0, output_type="bits").images
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    pipe.unload_lora_weights()
    assert all(torch.equal(a, b) for a, b in zip(before, pipe(prompts, seed=0, output_type="bits").images, strict=True))
    _, err = run(monkeypatch, capsys, given)
    assert "finished already, at step 20" in err
    export = ["bitvar", "export", str(tmp_path), str(tmp_path / "exported")]
    run(monkeypatch, capsys, export, code=2)
    run(monkeypatch, capsys, [*export, "--init", str(work / "tiny")])
    again, made = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("exported", "lora"))
    assert all(torch.equal(again[name], made[name]) for name in again | made)
    other = tiny_pipeline(tmp_path / "other")
    with torch.no_grad():
        other.transformer.start_token.add_(1)
    other.save_pretrained(tmp_path / "other" / "model")
    _, err = run(monkeypatch, capsys, [*given, "--init", str(tmp_path / "other" / "model")], code=2)
    assert "--init was sha256" in err
    wrong = ["bitvar", "export", str(tmp_path), str(tmp_path / "wrong"), "--init", str(tmp_path / "other" / "model")]
    run(monkeypatch, capsys, wrong, code=3)


def test_adapters_without_a_model_are_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = [
        "--tokenizer",
        str(work / "tiny" / "image_tokenizer"),
        "--text-encoder",
        str(work / "tiny" / "text_encoder"),
    ]
    given = words(work, tmp_path, "--recipe-arg", "adapters=3")
    at = given.index("--init")
    del given[at : at + 2]
    _, err = run(monkeypatch, capsys, [*given, *frozen], code=2)
    assert "Adapters need a model to --init from" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe-arg", "stepz=3"], "did you mean 'steps'"),
        (["--recipe-arg", "steps=many"], "steps is of type int"),
        (["--attention", "fast"], "Unknown attention"),
        (["--attention", "flex"], "FlexAttention can't train on cpu"),
        (["--shards", "2"], "--shards needs several processes"),
        (["--micro-batch", "3"], "can't share a batch of 4"),
        (["--tracker", "tensorbord"], "did you mean 'tensorboard'"),
        (["--max-bad-fraction", "2"], "Invalid value for '--max-bad-fraction'"),
    ],
)
def test_wrong_options_are_named(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    _, err = run(monkeypatch, capsys, words(work, tmp_path, *more), code=2)
    assert message in err
    assert len(err.strip().splitlines()) <= 4
    assert not (tmp_path / "checkpoints").exists()


def test_fit_says_what_a_run_needs_and_starts_nothing(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(monkeypatch, capsys, words(work, tmp_path / "run", "--fit"))
    assert "GiB: fits" in out
    assert "hours of one H100" in out
    small, _ = run(monkeypatch, capsys, words(work, tmp_path / "run", "--fit", "--device-gib", "0.0001"))
    assert "does not fit" in small
    assert "--activation-checkpointing" in small
    assert "--micro-batch 1" in small
    assert not (tmp_path / "run").exists()
    recipe = str(work / "recipe.py")
    assert "hours of one H100" in run(monkeypatch, capsys, ["bitvar", "train", recipe, "--fit"])[0]
    _, err = run(monkeypatch, capsys, ["bitvar", "train", recipe, "--data", "x"], code=2)
    assert "--out is missing" in err


def test_images_gone_bad_stop_a_run_with_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    build_index(make_images(tmp_path / "images", 60), tmp_path / "index", content_hash=True, validation=0.2)
    for i in range(5, 25):
        Image.new("RGB", (40, 40), "white").save(tmp_path / "images" / f"{i:04d}.png")
    given = words(work, tmp_path / "run", "--data", str(tmp_path / "index"), "--recipe-arg", "steps=400")
    _, err = run(monkeypatch, capsys, given, code=2)
    assert "samples could not be used" in err
    named = [json.loads(line) for line in (tmp_path / "run" / "bad_samples-0.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in named} == {"altered"}
    assert len({row["name"] for row in named}) == len(named)


@pytest.mark.slow
def test_two_supervised_processes_survive_a_kill(work: Path, tmp_path: Path) -> None:
    """The command itself: two ranks of an index run, one of them killed, the other stopped and continued by SIGTERM."""
    whole = launch(words(work, tmp_path / "whole", "--recipe-arg", "steps=12"))
    assert whole.communicate(timeout=120)[0].strip() == str(tmp_path / "whole" / "model")
    cut = launch(words(work, tmp_path / "cut", "--recipe-arg", "steps=12", "--nproc", "2", "--supervise"))
    assert cut.stderr is not None
    for line in cut.stderr:
        if line.startswith("step 3/"):
            break
    children = Path(f"/proc/{cut.pid}/task/{cut.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    out, err = cut.communicate(timeout=180)
    assert cut.returncode == 0, err
    assert "was killed by SIGKILL; starting again from step 2" in err
    assert out.strip() == str(tmp_path / "cut" / "model")
    ours, theirs = tensors(tmp_path / "cut", 12), tensors(tmp_path / "whole", 12)
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-4

    third = launch(words(work, tmp_path / "third", "--recipe-arg", "steps=2000", "--nproc", "2", "--supervise"))
    assert third.stderr is not None
    for line in third.stderr:
        if line.startswith("step 3/"):
            break
    begun = time.monotonic()
    third.send_signal(signal.SIGTERM)
    third.communicate(timeout=60)
    assert third.returncode == 143
    assert time.monotonic() - begun < 30
    assert list((tmp_path / "third" / "checkpoints").glob("step-*"))
