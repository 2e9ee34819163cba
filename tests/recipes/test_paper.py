"""The large recipes: what the paper gives, what fits where, the tables of docs/recipes.md, and the launch scripts."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import bitvar
from bitvar.cli import main as cli
from bitvar.condition import TextCondition
from bitvar.costs.devices import PEAK_TFLOPS
from bitvar.costs.flops import num_parameters, training_flops
from bitvar.costs.training_memory import GIB, MemoryPlan, estimate_memory, largest_batch
from bitvar.errors import UsageError
from bitvar.official_schedules import official_schedule
from bitvar.training.expected_work import expected_work, longest_schedule
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.transformer import PRESETS, InfinityTransformer, bitwise_loss
from tests.support.tiny import toy_set

ROOT = Path(__file__).parents[2]
EMBEDDED = Path(bitvar.__file__).parent / "pretrained" / "icons"
PAPER = runpy.run_path(str(ROOT / "recipes" / "paper.py"))
CARD = runpy.run_path(str(ROOT / "recipes" / "single_gpu_24gb.py"))
PIXELS = (256, 512, 1024)


def table(heading: str) -> dict[str, list[str]]:
    """Rows of the table of docs/recipes.md whose header begins with `heading`, by their first cell."""
    lines = iter((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith(f"| {heading}"))
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("pixels", PIXELS)
def test_a_stage_is_what_the_paper_says(size: str, pixels: int) -> None:
    config = PAPER["recipe"](size, pixels)
    optimization = config.optimization
    given = {256: (150_000, 4096, 6e-5), 512: (110_000, 3072, 3.5e-5), 1024: (60_000, 2048, 2e-5)}[pixels]
    assert (optimization.steps, optimization.batch_size, optimization.learning_rate) == given
    assert (optimization.betas, optimization.clip, optimization.optimizer) == ((0.9, 0.97), 5.0, "adamw")
    assert (config.max_flip_strength, config.condition_dropout) == (0.3, 0.1)
    schedules = config.model.all_schedules()
    assert len(schedules) == 15
    assert {16 * max(s[-1]) for s in schedules if s[-1][0] == s[-1][1]} == {pixels}
    assert num_parameters(config.model) == num_parameters(PRESETS[size])
    assert type(config).parse(json.loads(config.dump()), source="a dump") == config


@pytest.mark.parametrize("arguments", [("3B", 256), ("2B", 768)])
def test_an_unknown_size_is_named(arguments: tuple[str, int]) -> None:
    for made in (PAPER, CARD):
        with pytest.raises(UsageError, match=r"Unknown (size|pixels)"):
            made["recipe"](*arguments)


def test_the_default_is_the_smallest_first_stage() -> None:
    assert PAPER["recipe"]() == PAPER["recipe"]("125M", 256)


def test_a_first_loss_is_a_coin_toss_a_bit() -> None:
    toy = ["model.depth=1", "model.width=32", "model.num_heads=2", "model.text_width=8", "model.max_text_tokens=6"]
    config = PAPER["recipe"]("361M", 256).override(toy)
    schedule = config.model.all_schedules()[0]
    model = InfinityTransformer(config.model)
    model.init_weights(torch.Generator().manual_seed(0))
    data = teacher_forcing(torch.randn(2, 32, 16, 16), schedule, patch_size=config.model.patch_size)
    condition = TextCondition.from_list([torch.randn(5, 8), torch.randn(3, 8)])
    logits = model(condition, data.inputs, schedule)
    assert bitwise_loss(logits, data.target_bits, schedule).item() == pytest.approx(0.6931, abs=0.003)


def test_hours_are_operations_over_speed() -> None:
    flops = training_flops(PRESETS["2B"], official_schedule("1.0", "1M"), text_tokens=128) * 60_000 * 2048
    assert PAPER["expected_hours"]("2B", 1024) * 3600 * 0.4 * 989e12 == pytest.approx(flops)
    assert PAPER["expected_hours"]("4.7B", 256) > 2 * PAPER["expected_hours"]("2.2B", 256)


def test_the_table_of_costs_is_up_to_date() -> None:
    expected = {
        size: [
            f"{num_parameters(config):,}",
            *(f"{PAPER['expected_hours'](size, pixels):,.0f}" for pixels in PIXELS),
            str(PAPER["VALIDATION_LOSS"].get(size, "")),
        ]
        for size, config in PRESETS.items()
    }
    assert table("size | parameters") == expected
    stages = {str(p): PAPER["recipe"]("125M", p).optimization for p in PIXELS}
    shown = {
        p: [f"{o.steps:,}", str(o.batch_size), f"{o.learning_rate:g}".replace("e-0", "e-")] for p, o in stages.items()
    }
    assert table("px | steps") == shown


def test_the_table_of_samples_a_rank_is_up_to_date() -> None:
    def most(size: str, pixels: int) -> int:
        config = PAPER["recipe"](size, pixels)
        return largest_batch(
            MemoryPlan(config.model, longest_schedule(config), 1, activation_checkpointing=True, shards=64), 72 * GIB
        )

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    spread, card = text.split("## One card of 24 GB")
    for size in PRESETS:
        assert f"| {size} | {' | '.join(str(most(size, p)) for p in PIXELS)} |" in spread
    for size in ("125M", "361M", "940M"):
        assert f"| {size} | {' | '.join(str(CARD['part_size'](size, p)) for p in PIXELS)} |" in card
    adapters = estimate_memory(replace(CARD["plan"]("2B", 1024), lora_rank=16)).total / GIB
    assert f"needs {adapters:.0f} GiB" in text


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("size", ["125M", "361M", "940M"])
def test_a_part_of_a_step_fits_one_card(size: str, pixels: int) -> None:
    part = CARD["part_size"](size, pixels)
    assert CARD["BATCH_SIZE"] % part == 0
    assert estimate_memory(replace(CARD["plan"](size, pixels), batch_size=part)).total <= CARD["AVAILABLE"] < 24e9
    config = CARD["recipe"](size, pixels)
    assert config.optimization.batch_size == CARD["BATCH_SIZE"]
    planned = CARD["plan"](size, pixels).schedule
    assert planned.num_tokens == max(schedule.num_tokens for schedule in config.schedules)


def test_what_does_not_fit_one_card_is_refused() -> None:
    with pytest.raises(UsageError, match="2B at 256 px does not fit"):
        CARD["recipe"]("2B", 256)


def test_the_cost_that_the_one_card_recipe_names() -> None:
    config = CARD["recipe"]("361M", 256)
    schedule = expected_work(config).schedule
    once, twice = (
        training_flops(config.model, schedule, text_tokens=128, activation_checkpointing=activation_checkpointing)
        for activation_checkpointing in (False, True)
    )
    assert expected_work(config).flops_per_sample == once
    samples_a_second = 0.4 * PEAK_TFLOPS["RTX 4090"] * 1e12 / twice
    hours = 50_000 * 256 / samples_a_second / 3600
    stated = f"{once / 1e12:.1f} TFLOP a sample and {twice / 1e12:.1f} with the second"
    assert stated in CARD["__doc__"]
    assert f"{samples_a_second:.0f} samples a second, {hours:.0f} hours" in CARD["__doc__"]


def test_the_small_recipe_trains_from_the_embedded_models_frozen_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ROOT / "recipes" / "cpu.py"
    config = runpy.run_path(str(recipe))["recipe"]()
    assert f"{num_parameters(config.model) / 1e6:.1f} M parameters" in runpy.run_path(str(recipe))["__doc__"]
    out = tmp_path / "run"
    frozen = ("--tokenizer", EMBEDDED / "image_tokenizer", "--text-encoder", EMBEDDED / "text_encoder")
    toy = ("--set", "optimization.steps=1", "--set", "optimization.batch_size=4", "--set", "model.depth=1")
    arguments = ("train", recipe, "--data", toy_set(tmp_path / "data"), "--out", out, "--device", "cpu", *frozen, *toy)
    monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    first = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["loss"] == pytest.approx(0.6931, abs=0.01)
    assert (out / "model" / "transformer" / "model.safetensors").is_file()


LAUNCH = ROOT / "scripts" / "launch"


@pytest.mark.parametrize("script", ["torchrun.sh", "slurm.sbatch"])
def test_launch_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """An environment whose launchers write down their arguments, a line each."""
    programs = {
        "torchrun": 'printf "%s\\n" "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"',
        "srun": 'printf "%s\\n" srun; "$@"',
        "nvidia-smi": 'printf "GPU 0\\nGPU 1\\nGPU 2\\n"',
        "scontrol": 'printf "first\\nsecond\\n"',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "77"}
    return {**slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def launch(script: str, environment: dict[str, Any]) -> list[str]:
    arguments = ["bash", str(LAUNCH / script), "my recipe.py", "--out", "runs/x"]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


COMMAND = ["-m", "bitvar.cli.main", "train", "my recipe.py", "--out", "runs/x"]


@pytest.mark.parametrize(("gpus", "expected"), [(None, "3"), ("2", "2")])
def test_one_process_a_gpu_on_one_machine(gpus: str | None, expected: str, told: dict[str, Any]) -> None:
    environment = told | ({} if gpus is None else {"GPUS": gpus})
    seconds, *arguments = launch("torchrun.sh", environment)
    assert arguments == ["--standalone", "--nproc-per-node", expected, *COMMAND]
    assert int(seconds) == 240  # to save in, before torchrun kills


def test_slurm_starts_every_machine_and_the_first_one_is_where_they_meet(told: dict[str, Any]) -> None:
    started, seconds, *arguments = launch("slurm.sbatch", told | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "200"})
    assert (started, seconds) == ("srun", "200")
    assert arguments[-6:] == COMMAND
    settings = dict(zip(arguments[:-6:2], arguments[1:-6:2], strict=True))
    assert settings == {
        "--nnodes": "2",
        "--nproc-per-node": "8",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "first:29500",
        "--rdzv-id": "77",
    }


def test_the_launched_module_is_the_command(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bitvar.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in ran.stdout
