"""The experiments: mistakes and their repair, the index head, what heads cost, fits, tables, plots and runs by name."""

import argparse
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitvar import pyramid
from bitvar.errors import UsageError
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.loop import TrainerConfig, train
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet, TransformerTask
from bitvar.transformer import InfinityTransformer
from bitvar.weights.digests import write_manifest
from tests.support.tiny import tiny_pipeline, toy_set

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
RECIPE = runpy.run_path(str(ROOT / "recipes" / "experiments" / "transformer.py"))["recipe"]
CORRUPTION = runpy.run_path(str(EXPERIMENTS / "corruption.py"))
FLOW = runpy.run_path(str(EXPERIMENTS / "flow_matching.py"))
INDEX = runpy.run_path(str(EXPERIMENTS / "index_head.py"))
MEMORY = runpy.run_path(str(EXPERIMENTS / "head_memory.py"))
SAMPLING = runpy.run_path(str(EXPERIMENTS / "sampling.py"))
SCHEDULE = ScaleSchedule(((1, 1), (2, 2), (4, 4)), (4, 4))


def run(monkeypatch: pytest.MonkeyPatch, recipe: str, *arguments: str | Path) -> int | str | None:
    """The exit code of a recipe's command."""
    monkeypatch.setattr(sys, "argv", [recipe, *map(str, arguments)])
    try:
        runpy.run_path(str(EXPERIMENTS / recipe), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


# The recipe, and runs by name


def test_runs_differ_in_what_they_are_told_alone() -> None:
    base = RECIPE().model_dump()
    changes = {
        "off": ({"max_flip_strength"}, RECIPE(flips="off")),
        "plain": ({"requantize_after_flip"}, RECIPE(flips="plain")),
        "seed": ({"optimization"}, RECIPE(seed=1)),
        "bits": ({"model"}, RECIPE(bits=12, patch=1)),
    }
    for expected, made in changes.values():
        other = made.model_dump()
        assert {name for name in base if base[name] != other[name]} == expected
    assert (RECIPE(bits=12, patch=1).model.bits, RECIPE(seed=1).optimization.seed) == (12, 1)
    with pytest.raises(UsageError, match="no flips 'some'"):
        RECIPE(flips="some")


@pytest.mark.parametrize(
    ("name", "parameters"), [("2x32", 116_482), ("2x64", 322_948), ("4x96", 1_068_364), ("4x192", 3_651_608)]
)
def test_sizes_are_those_of_the_page(name: str, parameters: int) -> None:
    depth, width = map(int, name.split("x"))
    with torch.device("meta"):
        model = InfinityTransformer(RECIPE(depth=depth, width=width).model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters:,}" in (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def named_run(tmp_path: Path, name: str) -> tuple[int, str]:
    """What `run.sh` would start, by stand-ins for the commands that say how they were called."""
    for command in ("bitvar", "python"):
        path = tmp_path / "bin" / command
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {command} "$@"\ntouch "$RUNS/{name}/features-train.safetensors"\n')
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RUNS": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(EXPERIMENTS / "run.sh"), name, "--more"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_runs_have_names(tmp_path: Path) -> None:
    for name, said in {
        "4x96": (
            "--recipe-arg depth=4 --recipe-arg width=96 --recipe-arg flips=on --recipe-arg seed=0 --data",
            "pretrained/general",
        ),
        "2x64-plain-seed3": ("--recipe-arg width=64 --recipe-arg flips=plain --recipe-arg seed=3", "--more"),
        "d12-4x96": (
            "--recipe-arg seed=0 --recipe-arg bits=12 --recipe-arg patch=1",
            f"--tokenizer {tmp_path}/d12/model",
        ),
        "index-d12-4x96": ("index_head.py", "--prompts"),
    }.items():
        code, output = named_run(tmp_path, name)
        assert code == 0, output
        assert all(part in output for part in said), output
    assert (tmp_path / "d12-4x96" / "features-train.safetensors").samefile(
        tmp_path / "features-12" / "features-train.safetensors"
    )  # made once
    assert named_run(tmp_path, "4x96x2")[0] == 2


# Mistakes and their repair


def mistake(rate: float, scale: int = 1) -> tuple[Any, Tensor]:
    features = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    made = CORRUPTION["make_mistake"](features, SCHEDULE.grids, scale=scale, rate=rate, generators=generators)
    return made, features


def test_a_mistake_spoils_one_scale_and_its_repair_lies_nearer() -> None:
    true = [step.bits for step in pyramid.encode(mistake(0.0)[1], SCHEDULE.latent_grids(1))]
    made, features = mistake(0.3)
    assert torch.equal(made.given[0], true[0])
    assert 0.1 < (made.given[1] ^ true[1]).float().mean() < 0.5
    assert torch.equal(made.unrepaired[2], true[2]) and not torch.equal(made.repaired[2], true[2])
    repaired, unrepaired = (
        (pyramid.decode_latent(bits, (4, 4)) - features).square().mean() for bits in (made.repaired, made.unrepaired)
    )
    assert repaired < unrepaired
    none, _ = mistake(0.0)
    assert all(torch.equal(a, b) for a, b in zip(none.repaired, none.unrepaired, strict=True))
    more = mistake(0.6)[0].given[1] ^ true[1]
    assert (more & (made.given[1] ^ true[1])).sum() == (made.given[1] ^ true[1]).sum()  # the same ones, and more


def test_models_are_compared_by_the_same_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schedules = ({"grids": ((1, 1), (4, 4), (16, 16)), "reference": (16, 16)},)
    pipeline = tiny_pipeline(tmp_path, schedules=schedules)
    pipeline.save_pretrained(tmp_path / "run" / "model")
    data = toy_set(tmp_path / "set")
    arguments = (tmp_path / "out.png", "--data", data, "--images", "2", "--run", f"a={tmp_path / 'run'}")
    assert run(monkeypatch, "corruption.py", *arguments, "--run", f"b={tmp_path / 'run'}") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "| flipped scale | share flipped | repaired | unrepaired | a | b |"
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    by = {(each["name"], each["scale"], each["rate"]): each for each in figures}
    assert len(by) == len(figures) == 4 * 2 * 5
    assert {**by["a", 1, 0.3], "name": "b"} == by["b", 1, 0.3]
    assert (by["repaired", 0, 0.3]["sided"], by["unrepaired", 0, 0.3]["sided"]) == (1.0, 0.0)
    assert by["repaired", 1, 0.3]["error"] < by["unrepaired", 1, 0.3]["error"]
    assert by["repaired", 1, 0.0]["sided"] is None
    assert (tmp_path / "out.png").stat().st_size > 5000
    for wrong in ("a", "repaired=x", f"c={tmp_path}"):
        assert run(monkeypatch, "corruption.py", tmp_path / "no.png", "--data", data, "--run", wrong) == 2
    assert not (tmp_path / "no.png").exists()


# The index head, and flow matching


def transformer_task() -> TransformerTask:
    config = RECIPE(depth=1, width=32, bits=4, patch=1, steps=3).override(["model.text_width=6"])
    generator = torch.Generator().manual_seed(0)
    captions = CaptionFeatures(torch.randn(12, 6, generator=generator), torch.tensor([0, 3, 7, 12]))
    features = [torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2)]
    sets = [FeatureSet(each, captions, [[i % 3] for i in range(6)]) for each in features]
    return TransformerTask(config, train=sets[0], validation=sets[1])


def index_task() -> tuple[Any, TransformerTraining]:
    inner = transformer_task()
    return INDEX["IndexTask"](inner), inner.config


def test_codes_have_numbers() -> None:
    bits = torch.rand(2, 5, 12, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(INDEX["to_bits"](INDEX["to_index"](bits), 12), bits)
    assert INDEX["to_index"](torch.tensor([[False, True, True]])).tolist() == [6]


def test_an_index_head_trains_from_an_even_guess_and_goes_on(tmp_path: Path) -> None:
    task, config = index_task()
    assert task.model.head.weight.shape == (16, 32)
    text = config.dump()
    model = train(task, TrainerConfig(tmp_path, text, config.optimization, config.intervals))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(16), abs=0.05)  # nats a token
    again = train(index_task()[0], TrainerConfig(tmp_path, text, config.optimization, config.intervals))
    assert model is not None and again is not None
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_too_many_bits_for_an_index_are_refused() -> None:
    model = InfinityTransformer(RECIPE(depth=1, width=32, bits=17).model)
    with pytest.raises(UsageError, match="17 bits are too many"):
        INDEX["give_index_head"](model, torch.Generator())


def test_codes_are_drawn_by_their_probability() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(1, 6000, 3)
    draw = INDEX["draw_index"]
    noise = uniform_noise(0, 0, (1, 6000))
    drawn = draw(logits, 1.0, noise)
    assert np.allclose(np.bincount(drawn[0].numpy()) / 6000, [0.1, 0.2, 0.7], atol=0.02)
    assert set(draw(logits, 0.0, noise)[0].tolist()) == {2}
    assert (draw(logits, 0.3, noise) == 2).float().mean() > 0.95


def test_an_index_model_draws_latents_that_add_up_codes() -> None:
    task, _ = index_task()
    condition = task.inner.validation.captions.condition([0, 1])
    schedule = task.inner.schedules[0]
    params = SamplingParams(guidance_scale=2.0, temperature=0.5)
    latent = INDEX["draw_latents"](task.model, condition, schedule, params=params, seeds=[0, 1])
    steps = list(pyramid.encode(latent, schedule.latent_grids(1)))
    assert latent.shape == (2, 4, 8, 8) and latent.abs().max() <= len(steps) / 2 + 1e-6
    second = INDEX["draw_latents"](
        task.model, task.inner.validation.captions.condition([1]), schedule, params=params, seeds=[1]
    )
    assert torch.allclose(second[0], latent[1], atol=1e-5)


def flow_task() -> Any:
    task = FLOW["FlowTask"](transformer_task())
    task.measure_moments(task.inner.train.features)
    return task


def test_flow_matching_trains_and_goes_on(tmp_path: Path) -> None:
    config = transformer_task().config
    text = config.dump()
    model = train(task := flow_task(), TrainerConfig(tmp_path, text, config.optimization, config.intervals))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 1.0 < lines[0]["loss"] < 4.0  # the velocity's variance is 2 where a model knows nothing
    again = train(flow_task(), TrainerConfig(tmp_path, text, config.optimization, config.intervals))
    assert model is not None and again is not None
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    latents = task.model.standardise(task.latents(task.inner.train.features))
    assert latents.mean().abs() < 1e-5 and latents.std() == pytest.approx(1, abs=0.05)
    assert torch.allclose(task.model.restore(latents), task.latents(task.inner.train.features), atol=1e-5)


def test_flow_matching_learns_the_velocity_that_its_sampler_follows() -> None:
    task = flow_task()
    shape = (4, 8, 8)
    truth = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    condition = task.inner.validation.captions.condition([0])

    class OneImage(FLOW["FlowModel"]):
        """A model that knows where the only latent is: (noisy - latent) / share."""

        def forward(self, latent: Tensor, times: Tensor, text: Tensor, condition: Any) -> Tensor:
            return (latent - self.standardise(truth)) / times[:, None, None, None]

    model = OneImage(task.inner.config.model, channels=4, side=8)
    for guidance in (1.0, 3.0):
        drawn = FLOW["draw_latents"](model, condition, shape=shape, steps=4, guidance=guidance, seeds=[3])
        assert torch.allclose(drawn[0], truth, atol=1e-4)
    own = [
        FLOW["draw_latents"](task.model, condition, shape=shape, steps=2, guidance=1.0, seeds=[seed])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(own[0], own[1]) and not torch.equal(own[1], own[2])


def test_flow_matching_sees_what_is_hidden_by_its_mask() -> None:
    task = flow_task()
    rows = task.inner.validation.captions.condition([0, 2])  # of 3 and 5 tokens
    latent, times = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 0.5])
    with torch.no_grad():
        task.model.transformer.proj_out.weight.normal_()
        together = task.model(latent, times, task.model.text(rows), rows)
        alone = task.inner.validation.captions.condition([0])
        first = task.model(latent[:1], times[:1], task.model.text(alone), alone)
        dropped = rows.drop(torch.tensor([True, False]))
        free = task.model(latent, times, task.model.text(dropped), dropped)
    assert torch.allclose(together[0], first[0], atol=1e-4)
    assert not torch.allclose(free[0], together[0], atol=1e-4) and torch.allclose(free[1], together[1], atol=1e-5)


# What heads cost


def test_a_heads_cost_is_measured() -> None:
    point = MEMORY["measure"]("index", 12, tokens=64, width=32)
    logits = 64 * 4096 * 4
    assert point.parameters == 33 * 4096
    assert point.memory > 3 * logits
    assert MEMORY["outputs"]("bitwise", 12) == 24


def test_heads_are_in_the_table_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [MEMORY["Point"](head, bits, bits * 10, bits * 2**20, 0.5) for head in MEMORY["BITS"] for bits in (8, 16)]
    points.append(MEMORY["Point"]("bitwise", 32, 320, 2**25, 0.5))
    rows = MEMORY["table"](points).splitlines()
    assert "| 8 | 80 | 8 MiB | 0.5 | 80 | 8 MiB | 0.5 |" in rows
    assert "| 32 | 320 | 32 MiB | 0.5 |  |  |  |" in rows
    MEMORY["draw"](points).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
    for arguments in (("a.pdf",), (), ("a.png", "--tokens", "0")):
        assert run(monkeypatch, "head_memory.py", *arguments) == 2


# Runs side by side


def finished(folder: Path, loss: float, *, width: int = 32, bits: int = 4, head: str | None = None) -> Path:
    """What a run leaves that the comparison reads."""
    config = json.loads(RECIPE(depth=1, width=width, bits=bits, steps=3).dump()) | ({"head": head} if head else {})
    checkpoint = folder / "checkpoints" / "step-00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps(config))
    write_manifest(checkpoint)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "phase": "validation", "loss": loss}) + "\n")
    return folder


def scenes(path: Path, labels: tuple[str, ...]) -> Path:
    """A made-up report of `bitvar evaluate scenes`."""
    candidates = [{"candidate": name, "kind": "model", "metrics": {"frechet": {"distance": 50.0}}} for name in labels]
    results = [
        {"candidate": name, "split": split, "skill": skill, "score": 0.25, "low": 0.2, "high": 0.31}
        for name in labels
        for split in ("seen", "unseen", "held_out_style")
        for skill in ("single", "mean")
    ]
    path.write_text(json.dumps({"format": 2, "candidates": candidates, "results": results}))
    return path


def test_runs_are_compared_with_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = finished(tmp_path / "s", 0.6), finished(tmp_path / "l", 0.5, width=64)
    index = finished(tmp_path / "i", 2.0, head="index")
    (index / "facts.json").write_text(json.dumps({"parameters": 12345}))
    report = scenes(tmp_path / "report.json", ("small", "large", "other"))
    arguments = ("--run", f"small={small}", "--run", f"large={large}", "--run", f"index={index}", "--scenes", report)
    for by in ("label", "parameters"):
        assert run(monkeypatch, "compare.py", tmp_path / f"{by}.png", "--by", by, *arguments) == 0
        assert (tmp_path / f"{by}.png").stat().st_size > 5000
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("| run | parameters | bits of a token | samples | nats a token | validation loss, ")
    assert lines[2].startswith("| small | ") and lines[2].endswith(
        " | 2.400 | 0.6000 | 25.0 (20-31) | 25.0 (20-31) | 50.0 |"
    )
    assert lines[4].startswith("| index | 12,345 | 4 | 48 | 2.000 | 0.5000 |  |")
    assert "other is no --run" in printed.err and "index: no images" in printed.err
    (small / "metrics.jsonl").write_text(json.dumps({"step": 2, "phase": "validation", "loss": 1.0}) + "\n")
    for wrong, said in (
        (("--run", f"small={small}"), "is not finished"),
        (("--run", f"a={large}", "--run", f"a={large}"), "a label of its own"),
        (("--run", f"a={large}", "--scenes", tmp_path / "none.json"), "There is no"),
        (("--run", f"a={large}", "--scenes", large / "metrics.jsonl"), "is no report of a benchmark"),
        (("--run", f"a={large}", "--fit"), "nothing to fit"),
    ):
        assert run(monkeypatch, "compare.py", tmp_path / "no.png", *wrong) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


# Guidance and temperature


def evaluated(work: Path, guidance: float, score: float, spread: int) -> None:
    folder = work / f"g{guidance:g}-t0.5"
    images = folder / "images" / "model"
    images.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (32, 32), (number * spread, 0, 0)).save(images / f"seen-two-00-{number}.png")
    report = json.loads(scenes(folder / "report.json", ("model",)).read_text())
    report["results"] = [row | {"score": score} for row in report["results"] if row["split"] != "held_out_style"]
    report["candidates"][0]["images"] = 2
    (folder / "report.json").write_text(json.dumps(report))


def test_a_grid_is_read_where_it_is_done_and_made_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(tmp_path, 1.0, 0.25, 0)
    evaluated(tmp_path, 3.0, 0.5, 200)
    arguments = ("--data", "set", "--work", tmp_path, "--guidance", "3", "--guidance", "1", "--temperature", "0.5")
    assert run(monkeypatch, "sampling.py", tmp_path / "out.png", *arguments) == 0
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[0], row[2][:4]) for row in rows] == [("| 1", "25.0"), ("| 3", "50.0")]
    assert float(rows[0][4]) == 0 < float(rows[1][4])
    assert (tmp_path / "out.png").stat().st_size > 5000
    asked: list[list[str]] = []

    def refuse(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return argparse.Namespace(returncode=1)

    monkeypatch.setattr(subprocess, "run", refuse)
    assert run(monkeypatch, "sampling.py", tmp_path / "no.png", *arguments, "--guidance", "5", "--limit", "3") == 2
    assert asked[0][-10:-4] == ["--limit", "3", "--guidance", "5", "--temperature", "0.5"]
    assert run(monkeypatch, "sampling.py", tmp_path / "no.pdf", *arguments) == 2


def test_an_index_run_needs_its_prompts_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = (f"--{name}" for name in ("data", "out", "tokenizer", "text-encoder"))
    arguments = [word for option in inputs for word in (option, str(tmp_path / "none"))]
    assert run(monkeypatch, "index_head.py", *arguments, "--prompts", tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
