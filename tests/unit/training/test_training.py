"""Training: resuming is exact, nothing bad is saved or loaded, every setting counts, and eight images come back."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor, nn

from bitvar import pyramid
from bitvar.data.order import SampleOrder
from bitvar.errors import UsageError, WeightsError
from bitvar.runtime.compile import compile_blocks
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig, losses
from bitvar.training.config import IntervalConfig, OptimizationConfig, TokenizerTraining, TransformerTraining
from bitvar.training.engine import loop
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Task, TrainingDivergedError
from bitvar.training.engine.microbatch import MicroBatch, Purpose, make_generator, micro_batches_of
from bitvar.training.engine.optim import Ema, build_optimizer, learning_rate
from bitvar.training.monitor.health import Trouble
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.task import TokenizerModels, TokenizerTask
from bitvar.training.transformer.self_correction import random_flip, teacher_forcing
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet, TransformerTask
from bitvar.transformer import InfinityTransformer, ScheduleConfig, TransformerConfig
from bitvar.weights.digests import verify_folder

GRIDS = ((1, 1), (2, 2), (4, 4))


def optimization(**changes: Any) -> OptimizationConfig:
    settings: dict[str, Any] = {
        "steps": 6,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "precision": "fp32",
    }
    return OptimizationConfig(**(settings | changes))


INTERVALS = IntervalConfig(log=1, validation=2, sample=2, save=2, keep=2)


def tokenizer_training(**changes: Any) -> TokenizerTraining:
    model = TokenizerConfig(bits=4, base_channels=8, channel_multipliers=(1, 2), res_blocks=1, norm_groups=4)
    settings: dict[str, Any] = {
        "model": model, "schedules": (GRIDS,), "optimization": optimization(), "intervals": INTERVALS,
        "entropy_sharpness": 4.0, "adversarial_adaptive": False, "discriminator_width": 8,
    }  # fmt: skip
    return TokenizerTraining(**(settings | changes))


def transformer_training(**changes: Any) -> TransformerTraining:
    model = TransformerConfig(
        depth=1, width=16, num_heads=2, bits=4, text_width=6, max_text_tokens=5,
        schedules=(ScheduleConfig(grids=GRIDS, reference=(4, 4)),),
    )  # fmt: skip
    settings: dict[str, Any] = {"model": model, "optimization": optimization(), "intervals": INTERVALS}
    return TransformerTraining(**(settings | changes))


def make_images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Blurry:
    """A stand-in for a perceptual distance."""

    title, name, min_side = "blurry distance", "blurry", 2

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(reconstruction - images, 2).square().mean(dim=(1, 2, 3))


def tokenizer_task(config: TokenizerTraining, **changes: Any) -> TokenizerTask:
    parts: dict[str, Any] = {"train": ImageSet(make_images(5)), "validation": ImageSet(make_images(2, seed=1))}
    parts["perceptual"] = Blurry() if config.perceptual > 0 else None
    return TokenizerTask(config, **(parts | changes))


def feature_set(count: int, seed: int) -> FeatureSet:
    generator = torch.Generator().manual_seed(seed)
    captions = CaptionFeatures(torch.randn(12, 6, generator=generator), torch.tensor([0, 3, 7, 9, 12]))
    features = torch.randn(count, 4, 4, 4, generator=generator)
    return FeatureSet(features, captions, [[i % 4, (i + 1) % 4] for i in range(count)])


def transformer_task(config: TransformerTraining) -> TransformerTask:
    return TransformerTask(config, train=feature_set(5, 0), validation=feature_set(2, 1))


MAKERS: dict[str, Callable[..., Any]] = {
    "tokenizer": lambda **changes: tokenizer_training(adversarial=0.1, truncation=0.5, adversarial_start=1, **changes),
    "transformer": transformer_training,
    "muon": lambda: tokenizer_training(adversarial=0.1, optimization=optimization(optimizer="muon")),
}


def task_for(config: TokenizerTraining | TransformerTraining) -> Task:
    return tokenizer_task(config) if isinstance(config, TokenizerTraining) else transformer_task(config)


def train(config: Any, folder: Path, *, report: Callable[[str], None] = lambda line: None, **options: Any) -> nn.Module:
    run = loop.TrainerConfig(folder, config.dump(), config.optimization, config.intervals, log=report, **options)
    model = loop.train(task_for(config), run)
    assert model is not None
    return model


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Every line, without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "samples_per_second", "tokens_per_second")}
        for line in lines
    ]


def saved(folder: Path, step: int = 6) -> dict[str, Tensor]:
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    names = ("model", "ema", "optimizer")
    return {f"{n}/{k}": v for n in names for k, v in load_file(checkpoint / f"{n}.safetensors").items()}


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = saved(one), saved(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert metrics(one) == metrics(other)


class KilledError(Exception):
    pass


# Resuming


@pytest.mark.parametrize("kind", MAKERS)
def test_an_interrupted_run_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config = MAKERS[kind]()
    train(config, tmp_path / "whole")

    def interrupt(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", report=interrupt)
    assert (tmp_path / "cut" / "checkpoints" / "step-00000003").is_dir()
    lines: list[str] = []
    model = train(config, tmp_path / "cut", report=lines.append)
    assert lines[0] == "resuming at step 3"
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    train(config, tmp_path / "cut", report=lines.append)
    assert "finished already, at step 6" in lines
    averaged = {f"ema/{name}": p for name, p in model.named_parameters()}
    assert all(torch.equal(p, saved(tmp_path / "cut")[name]) for name, p in averaged.items())


def test_changed_data_are_spoken_of(tmp_path: Path) -> None:
    config = transformer_training()
    train(config, tmp_path)
    for checkpoint in (tmp_path / "checkpoints").glob("step-00000006"):
        shutil.rmtree(checkpoint)
    lines: list[str] = []
    task = TransformerTask(config, train=feature_set(7, 0), validation=feature_set(2, 1))
    loop.train(
        task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals, log=lines.append)
    )
    assert lines[:2] == [
        "resuming at step 4",
        "WARNING: the data set changed since the last checkpoint ([5] -> [7] samples per bucket); the sample order will"
        " differ from the original run",
    ]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_killed_run_makes_the_lost_steps_again(kind: str, tmp_path: Path) -> None:
    config = MAKERS[kind]()
    train(config, tmp_path / "whole")

    def die(line: str) -> None:
        if line.startswith("step 5/"):
            raise KilledError

    with pytest.raises(KilledError):
        train(config, tmp_path / "cut", report=die)
    lines: list[str] = []
    train(config, tmp_path / "cut", report=lines.append)
    assert lines[0] == "resuming at step 4"
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_an_interrupt_in_the_middle_of_an_update_saves_no_half_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformer_training()
    train(config, tmp_path / "whole")
    update = Ema.update

    def interrupted(self: Ema, model: nn.Module, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt  # the optimiser has stepped, the average has not
        update(self, model, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ema, "update", interrupted)
        train(config, tmp_path / "cut")
    train(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_is_a_no_op(tmp_path: Path) -> None:
    config = transformer_training()
    first = train(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    text = (tmp_path / "metrics.jsonl").read_text()
    again = train(config, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert (tmp_path / "metrics.jsonl").read_text() == text


@pytest.mark.parametrize("name", ["model", "ema", "optimizer"])
def test_an_altered_checkpoint_is_never_loaded(name: str, tmp_path: Path) -> None:
    config = transformer_training()
    train(config, tmp_path)
    for step in (6, 4):
        path = tmp_path / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(WeightsError, match=f"{name}.safetensors: sha256"):
            verify_folder(path.parent)
    with pytest.raises(WeightsError, match=f"{name}.safetensors: sha256"):  # none is whole: nothing to fall back to
        train(config, tmp_path)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(transformer_training(), tmp_path)
    with pytest.raises(UsageError, match="other settings"):
        train(transformer_training(reweighted=True), tmp_path)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_before_the_update(broken: str, tmp_path: Path) -> None:
    config = transformer_training()
    task = transformer_task(config)
    plain = task.loss
    before: list[Tensor] = []

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, logged = plain(batch)
        if batch.micro_batch.step < 3:
            return value, logged
        before.extend(p.detach().clone() for p in task.model.parameters())
        if broken == "loss":
            return value * float("nan"), logged
        return value + 0 * (task.model.start_token * 0).abs().sqrt().sum(), logged  # a NaN in the gradient only

    task.loss = loss  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match=r"step 3: not finite[\s\S]*update was not made"):
        loop.train(task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals))
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def spoil(task: Any, steps: set[int], value: float = float("nan")) -> None:
    """Make the loss of some steps no finite number."""
    plain = task.loss

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        made, logged = plain(batch)
        return made * value if batch.micro_batch.step in steps else made, logged

    task.loss = loss


def many_steps(**changes: Any) -> Any:
    return transformer_training(
        optimization=optimization(steps=24, **changes), intervals=IntervalConfig(log=1, save=1, keep=99)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_updates_that_are_not_finite_are_left_out_when_told_so(tmp_path: Path, value: float) -> None:
    """D7: at ten steps, three of them in a row; each is reported, and no checkpoint ever holds one."""
    config, bad, lines = many_steps(not_finite="skip"), {2, 3, 4, 7, 9, 11, 13, 15, 17, 23}, list[str]()
    task = transformer_task(config)
    spoil(task, bad, value)
    run = loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals, log=lines.append)
    loop.train(task, run)
    left_out = [line for line in lines if "The update was left out." in line]
    assert [int(line.split("step ")[1].split(":")[0]) for line in left_out] == sorted(bad)
    before = {name: tensor.clone() for name, tensor in saved(tmp_path, 1).items()}
    for step in range(2, 25):
        now = saved(tmp_path, step)
        assert all(tensor.isfinite().all() for tensor in now.values()), step
        moved = any(not torch.equal(now[name], before[name]) for name in now)
        assert moved == (step - 1 not in bad), step
        before = now
    logged = [line["skipped"] for line in metrics(tmp_path) if line["phase"] == "train"]
    assert logged == [sum(b <= step for b in bad) for step in range(24)]


@pytest.mark.parametrize("step", [0, 1, 2, 5, 8, 11, 14, 17, 20, 23])
def test_an_update_that_is_not_finite_stops_the_run(tmp_path: Path, step: int) -> None:
    """D7 with the other policy, at ten steps."""
    config = many_steps()
    task = transformer_task(config)
    spoil(task, {step})
    with pytest.raises(TrainingDivergedError, match=f"at step {step}: not finite"):
        loop.train(task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals))
    made = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert len(made) == step
    assert all(tensor.isfinite().all() for s in range(1, step + 1) for tensor in saved(tmp_path, s).values())


def test_too_many_bad_updates_in_a_row_stop_a_run_that_skips(tmp_path: Path) -> None:
    config = many_steps(not_finite="skip")
    task = transformer_task(config)
    spoil(task, set(range(3, 24)))
    with pytest.raises(TrainingDivergedError, match=r"at step 13: not finite. 10 updates before it were left out"):
        loop.train(task, loop.TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_computing_activations_again_changes_nothing(precision: str) -> None:
    config = transformer_training(optimization=optimization(precision=precision))
    gradients = []
    for activation_checkpointing in (False, True):
        task = transformer_task(config)
        _set_all(task.model)
        compile_blocks(task.fsdp_units, activation_checkpointing=activation_checkpointing, compiled=False)
        batch = next(task.batches(micro_batches_of(SampleOrder(task.counts, 3, 0), range(1))))
        task.loss(batch)[0].backward()
        gradients.append({name: p.grad for name, p in task.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.equal(gradient, gradients[1][name]), name


def _set_all(model: nn.Module) -> None:
    """Weights that make every part of the model count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


# The parts of the loop


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    config = optimization(steps=100, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx((2.0 + 0.2) / 2)
    assert rates[100] == pytest.approx(0.2)
    assert learning_rate(1000, config) == pytest.approx(0.2)
    assert learning_rate(0, optimization(warmup_steps=0)) == pytest.approx(1e-3)


def test_the_average_follows_in_fp32_and_young_ones_forget_faster() -> None:
    model = nn.Linear(2, 2, bias=False)
    ema = Ema(model, 0.9)
    assert not any(tensor.requires_grad for tensor in ema.tensors.values())
    old = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.update(model, 0)
    torch.testing.assert_close(ema.tensors["weight"], 0.1 * old + 0.9)  # decay 1/10 at step 0
    before = ema.tensors["weight"].clone()
    ema.update(model, 10_000)
    torch.testing.assert_close(ema.tensors["weight"], 0.9 * before + 0.1)


def test_weight_decay_touches_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = build_optimizer(model, optimization(weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in groups] == [(0.1, {2}), (0.0, {1})]


def test_swapping_the_average_twice_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    averages = {name: tensor.clone() for name, tensor in ema.tensors.items()}
    ema.swap(model)
    assert all(torch.equal(p, averages[name]) for name, p in model.named_parameters())
    ema.swap(model)
    assert model.weight.unique().tolist() == [1.0]
    assert all(torch.equal(ema.tensors[name], averages[name]) for name in averages)


def test_every_step_draws_its_own_numbers() -> None:
    draws = {
        (seed, number, purpose): torch.rand((), generator=make_generator(seed, number, purpose)).item()
        for seed in (0, 1)
        for number in range(9)
        for purpose in Purpose
    }
    assert len(set(draws.values())) == len(draws)
    assert torch.rand((), generator=make_generator(1, 5, Purpose.FLIP)).item() == draws[1, 5, Purpose.FLIP]


def test_trouble_is_spoken_of_once_and_the_time_left_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(loop, "find_trouble", lambda metrics, batch_size: [Trouble(f"at {len(metrics)}", "slow down")])
    train(transformer_training(intervals=IntervalConfig(log=1, validation=2)), tmp_path, report=lines.append)
    assert [line for line in lines if "WARNING" in line] == ["WARNING: at 2\n  do:  slow down"]
    steps = [line for line in lines if line.startswith("step ")]
    assert all("  left 0:" in line for line in steps)
    assert steps[-1].endswith("left 0:00:00")


# Every setting changes a run


def fingerprint(config: Any, folder: Path) -> tuple[Any, ...]:
    def sample(model: nn.Module, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("an image")

    train(config, folder, sample=sample)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return files, metrics(folder), {k: v.tolist() for k, v in saved(folder, config.optimization.steps).items()}


COMMON = {
    "optimization.optimizer": "adamw", "optimization.momentum": 0.5, "optimization.muon_precision": "bf16",
    "optimization.steps": 5, "optimization.batch_size": 2, "optimization.learning_rate": 2e-3,
    "optimization.warmup_steps": 3, "optimization.final_learning_rate": 0.5, "optimization.betas": [0.8, 0.9],
    "optimization.weight_decay": 0.1, "optimization.clip": 1e-3, "optimization.ema_decay": 0.0,
    "optimization.precision": "bf16", "optimization.seed": 1, "optimization.not_finite": "skip",
    "intervals.log": 2, "intervals.validation": 3, "intervals.sample": 3, "intervals.save": 3, "intervals.keep": 1,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "tokenizer": COMMON | {
        "schedules": [[[1, 1], [4, 4]]], "commitment": 0.0, "trained": "decoder", "adversarial_adaptive": True,
        "discriminator_width": 16, "discriminator_levels": 1, "entropy": 0.0, "entropy_sharpness": 2.0,
        "perceptual": 0.0, "adversarial": 0.0, "adversarial_start": 3, "truncation": 0.0, "multiscale": 0.5,
        "model.bits": 5, "model.base_channels": 12, "model.channel_multipliers": [1, 1], "model.res_blocks": 2,
        "model.norm": "pixel", "model.norm_groups": 2, "model.pixel_patch": 2, "model.linear_skip": True,
        "model.code_norms": [1.5, 1.0],
    },
    "transformer": COMMON | {
        "max_flip_strength": 0.0, "num_corrected_scales": 1, "condition_dropout": 0.9, "reweighted": True,
        "requantize_after_flip": False, "initial_gamma": 0.5, "num_scales": 2,
        "first_caption": 1.0, "model.depth": 2, "model.width": 24, "model.num_heads": 1, "model.max_text_tokens": 6,
        "model.max_scales": 4, "model.code_norms": [1.5, 1.0],
    },
}  # fmt: skip
ELSEWHERE = {  # must fit the data, so a run can't change them alone: see test_transformer and the tokenizer's own tests
    "kind", "model.image_channels", "model.bits", "model.patch_size", "model.text_width", "model.schedules",
    "model.budgets", "cut_caption", "lora", "model.text_adapter_depth", "model.text_adapter_width", "smallest_crop",
    "mirrored", "perceptual_network", "guidance_distillation", "control",
}  # fmt: skip


def base_run(kind: str) -> Any:
    steps = optimization(optimizer="muon", steps=4, warmup_steps=1)
    if kind == "transformer":
        return transformer_training(optimization=steps)
    return tokenizer_training(optimization=steps, adversarial=0.1, perceptual=0.5, truncation=0.5)


@pytest.fixture(scope="module")
def base_fingerprints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    return {kind: fingerprint(base_run(kind), tmp_path_factory.mktemp(kind)) for kind in CHANGES}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, changes in CHANGES.items() for key in changes])
def test_every_setting_changes_a_run(
    kind: str, key: str, base_fingerprints: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    config = base_run(kind).override([f"{key}={json.dumps(CHANGES[kind][key])}"])
    assert fingerprint(config, tmp_path) != base_fingerprints[kind]


@pytest.mark.parametrize("kind", CHANGES)
def test_no_setting_is_forgotten_above(kind: str) -> None:
    def leaves(values: dict[str, Any], prefix: str = "") -> set[str]:
        return {
            leaf
            for name, value in values.items()
            for leaf in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name})
        }

    assert leaves(base_run(kind).model_dump()) - ELSEWHERE == set(CHANGES[kind]) - ELSEWHERE


def test_the_same_run_twice_is_the_same(base_fingerprints: dict[str, tuple[Any, ...]], tmp_path: Path) -> None:
    for kind in CHANGES:
        assert fingerprint(base_run(kind), tmp_path / kind) == base_fingerprints[kind]


# The tokenizer's step


def tokenizer_loss(task: TokenizerTask, *, step: int = 0, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    (batch,) = task.batches([MicroBatch(step, 0, torch.arange(3), 0, seed)])
    return task.loss(batch)


def test_the_judge_and_the_decoder_do_not_touch_each_other() -> None:
    task = tokenizer_task(tokenizer_training(adversarial=0.7, commitment=0.0, entropy=0.0))
    judge = task.model.discriminator
    assert judge is not None
    images = torch.randn(2, 3, 8, 8)
    fake = torch.randn(2, 3, 8, 8, requires_grad=True)
    terms, weight = task._adversarial(fake, images, fake.mean())
    assert weight.item() == pytest.approx(0.7)
    inward = torch.autograd.grad(terms["generator"], [fake, *judge.parameters()], allow_unused=True, retain_graph=True)
    assert inward[0] is not None
    assert inward[0].abs().max() > 0
    assert all(gradient is None for gradient in inward[1:])
    outward = torch.autograd.grad(terms["discriminator"], [fake, *judge.parameters()], allow_unused=True)
    assert outward[0] is None
    assert all(gradient is not None for gradient in outward[1:])
    assert sum(gradient.abs().max() > 0 for gradient in outward[1:]) >= len(outward) - 2  # the last bias cancels out
    torch.testing.assert_close(terms["generator"], -0.7 * judge(fake).mean())


def test_the_generator_gradient_reaches_the_encoder() -> None:
    plain = tokenizer_task(tokenizer_training(commitment=0.0, entropy=0.0))
    judged = tokenizer_task(tokenizer_training(commitment=0.0, entropy=0.0, adversarial=5.0))
    judged.model.tokenizer.load_state_dict(plain.model.tokenizer.state_dict())
    gradients = []
    for task in (plain, judged):
        tokenizer_loss(task)[0].backward()
        gradients.append(task.model.tokenizer.encoder.conv_in.weight.grad)
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-4)


def test_the_discriminator_joins_at_its_step() -> None:
    task = tokenizer_task(tokenizer_training(adversarial=0.1, adversarial_start=5))
    assert "discriminator" not in tokenizer_loss(task, step=4)[1]
    assert {"generator", "discriminator"} <= set(tokenizer_loss(task, step=5)[1])
    assert tokenizer_task(tokenizer_training()).model.discriminator is None


def test_the_perceptual_distance_counts_and_is_felt() -> None:
    calls: list[tuple[Tensor, Tensor]] = []

    class Watched(Blurry):
        def __call__(self, reconstruction: Tensor, images: Tensor) -> Tensor:
            calls.append((reconstruction, images))
            return super().__call__(reconstruction, images)

    task = tokenizer_task(tokenizer_training(perceptual=2.0), perceptual=Watched())
    total, terms = tokenizer_loss(task)
    ((reconstruction, images),) = calls
    torch.testing.assert_close(terms["blurry"], 2.0 * Blurry()(reconstruction, images).mean().detach())
    losses_alone = [value for name, value in terms.items() if "/" not in name]
    torch.testing.assert_close(total.detach(), torch.stack(losses_alone).sum())
    weight = task.model.tokenizer.encoder.conv_in.weight
    (gradient,) = torch.autograd.grad(Blurry()(reconstruction, images).mean(), weight)
    assert gradient.abs().max() > 0
    assert task.validate(task.model, DistributedContext())["blurry"] > 0


def test_a_perceptual_weight_without_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a perceptual network"):
        tokenizer_task(tokenizer_training(perceptual=1.0), perceptual=None)


def test_truncation_decodes_the_first_scales_only(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tokenizer_task(tokenizer_training(truncation=0.5))
    decoded: list[Tensor] = []
    decoder = task.model.tokenizer.decoder
    decoder.register_forward_pre_hook(lambda module, args: decoded.append(args[0].detach()))
    features = task.model.tokenizer.features(make_images(5)[:3].float() / 127.5 - 1)
    latents = [step.latent.detach() for step in pyramid.encode(features, GRIDS)]
    for seed in range(60):
        tokenizer_loss(task, seed=seed)
    scale = [next(k for k, latent in enumerate(latents) if torch.allclose(latent, seen, atol=1e-5)) for seen in decoded]
    assert {scale.count(k) > 5 for k in range(3)} == {True}
    assert 15 <= scale.count(2) <= 45  # half of 60, within 3.9 sigma; seeds are fixed, so it can't flake
    monkeypatch.undo()


def test_commitment_pulls_the_features_and_not_the_latent() -> None:
    features, latent = torch.randn(2, 1, 4, 2, 2).unbind()
    features.requires_grad_()
    latent.requires_grad_()
    ours = torch.autograd.grad(losses.commitment_loss(features, latent), [features, latent], allow_unused=True)
    torch.testing.assert_close(ours[0], 2 * (features - latent).detach() / features.numel())
    assert ours[1] is None


def test_the_entropy_terms_know_certain_and_even_bits() -> None:
    d = 4
    even = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 1, 4, 4).expand(1, d, 4, 4)
    one_sided = torch.ones(1, d, 4, 4)
    unsure = torch.full((1, d, 4, 4), 1e-6) * torch.tensor([1.0, 0, 0, 0]).reshape(1, d, 1, 1)
    sharp = {"inverse_temperature": 20.0}
    assert losses.bit_entropy(even, **sharp).per_sample.item() == pytest.approx(0, abs=1e-3)
    assert losses.bit_entropy(even, **sharp).of_mean.item() == pytest.approx(1, abs=1e-3)
    assert losses.bit_entropy(one_sided, **sharp).of_mean.item() == pytest.approx(0, abs=1e-3)
    assert losses.bit_entropy(unsure, **sharp).per_sample.item() == pytest.approx(0.75, abs=1e-3)
    p = 1 / (1 + math.exp(-4 * 0.5 * 1.5 / math.sqrt(d)))
    expected = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert losses.bit_entropy(one_sided, inverse_temperature=1.5).per_sample.item() == pytest.approx(expected)


def test_certain_bits_have_a_finite_gradient() -> None:
    residual = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1).requires_grad_()
    terms = losses.bit_entropy(residual, inverse_temperature=20.0)
    (gradient,) = torch.autograd.grad(terms.per_sample - terms.of_mean, residual)
    assert torch.isfinite(gradient).all()


def test_the_entropy_penalty_prefers_certain_and_even_bits() -> None:
    def penalty(residual: Tensor) -> float:
        step = pyramid.ScaleStep(residual, residual > 0, residual)
        return losses.entropy_penalty([step], inverse_temperature=20.0).item()

    noise = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    even = noise.sign()
    assert penalty(even) < penalty(noise) < penalty(even.abs()) + 1e-3
    assert penalty(even) == pytest.approx(-1, abs=0.05)
    assert penalty(even.abs()) == pytest.approx(0, abs=1e-3)


def test_reconstruction_is_l1_plus_l2_and_the_judge_pays_a_hinge() -> None:
    a, b = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    assert losses.reconstruction_loss(a, b).item() == pytest.approx(0.75)
    score = torch.full((1, 1, 2, 2), 0.25)
    assert losses.discriminator_loss(score, score).item() == pytest.approx(0.5 * (0.75 + 1.25))
    assert losses.discriminator_loss(8 * score, -8 * score).item() == 0
    assert losses.generator_loss(score).item() == -0.25


def test_the_multiscale_loss_weighs_tints_and_not_noise() -> None:
    images = torch.zeros(1, 3, 32, 32)
    assert losses.multiscale_loss(images + 0.1, images).item() == pytest.approx(4 * 0.1)
    noise = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(1, 3, 16, 16)
    assert losses.multiscale_loss(images + noise, images).item() == pytest.approx(0, abs=1e-6)
    half = torch.cat([images[..., :16] + 0.1, images[..., 16:] - 0.1], dim=-1)
    assert losses.multiscale_loss(half, images).item() == pytest.approx(4 * 0.1)
    small = torch.zeros(1, 3, 4, 6)
    assert losses.multiscale_loss(small + 0.1, small).item() == pytest.approx(2 * 0.1)


# Self-correction

SCHEDULE = ScaleSchedule(GRIDS, (4, 4))
FEATURES = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_flipped_scale_keeps_its_target_and_finer_ones_are_made_again() -> None:
    plain = teacher_forcing(FEATURES, SCHEDULE, patch_size=1)
    flipped = teacher_forcing(FEATURES, SCHEDULE, patch_size=1, flip=lambda k, bits: ~bits if k == 1 else bits)
    part = [SCHEDULE.tokens(k) for k in range(3)]
    assert torch.equal(flipped.target_bits[:, part[0]], plain.target_bits[:, part[0]])
    assert torch.equal(flipped.target_bits[:, part[1]], plain.target_bits[:, part[1]])
    assert not torch.equal(flipped.target_bits[:, part[2]], plain.target_bits[:, part[2]])
    assert torch.equal(flipped.inputs[0], plain.inputs[0])
    assert not torch.allclose(flipped.inputs[1], plain.inputs[1])


def test_flips_without_requantising_disturb_the_inputs_alone() -> None:
    def flip(k: int, bits: Tensor) -> Tensor:
        return ~bits if k < 2 else bits

    plain = teacher_forcing(FEATURES, SCHEDULE, patch_size=1)
    corrupted = teacher_forcing(FEATURES, SCHEDULE, patch_size=1, flip=flip, requantize_after_flip=False)
    assert torch.equal(corrupted.target_bits, plain.target_bits)
    pairs = zip(corrupted.inputs, plain.inputs, strict=True)
    assert all(torch.allclose(one, -other) for one, other in pairs)  # all codes that they read are turned
    corrected = teacher_forcing(FEATURES, SCHEDULE, patch_size=1, flip=flip)
    assert torch.equal(corrected.inputs[0], corrupted.inputs[0])  # the first mistake is the same
    assert not torch.equal(corrected.target_bits, plain.target_bits)


def flips(**options: Any) -> list[Tensor]:
    flip = random_flip(generators=[torch.Generator().manual_seed(i) for i in range(50)], **options)
    return [flip(k, torch.zeros(50, 16, 8, 8, dtype=torch.bool)) for k in range(3)]


def test_strength_zero_is_plain_training() -> None:
    plain = teacher_forcing(FEATURES, SCHEDULE, patch_size=1)
    flip = random_flip(max_strength=0.0, num_corrected_scales=9, generators=[torch.Generator() for _ in range(3)])
    ours = teacher_forcing(FEATURES, SCHEDULE, patch_size=1, flip=flip)
    assert torch.equal(ours.target_bits, plain.target_bits)
    assert all(torch.equal(a, b) for a, b in zip(ours.inputs, plain.inputs, strict=True))


def test_only_the_first_scales_are_corrected() -> None:
    assert [bool(bits.any()) for bits in flips(max_strength=0.3, num_corrected_scales=2)] == [True, True, False]


def test_each_image_draws_its_own_strength_up_to_the_largest() -> None:
    share = flips(max_strength=0.3, num_corrected_scales=1)[0].float().mean(dim=(1, 2, 3))  # of 1024 bits
    assert share.max() < 0.3 + 5 * math.sqrt(0.3 * 0.7 / 1024)
    assert share.max() > 0.2
    assert share.min() < 0.06
    assert share.mean().item() == pytest.approx(0.15, abs=0.05)


# The transformer's step


def test_captions_are_cut_out_of_the_long_table() -> None:
    data = feature_set(5, 0)
    condition = data.captions.condition([1, 2])
    assert condition.mask.sum(dim=1).tolist() == [4, 2]
    assert torch.equal(condition.features[0], data.captions.tokens[3:7])


def test_a_sample_draws_the_same_in_any_batch() -> None:
    """Captions, dropped prompts and flips depend on the sample's place in the run, not on who else is in the batch."""
    task = transformer_task(transformer_training(condition_dropout=0.5, max_flip_strength=1.0))
    order = SampleOrder(task.counts, 4, 0)
    whole = list(task.batches(micro_batches_of(order, range(3))))
    pieces = list(
        task.batches(one for rank in range(2) for one in micro_batches_of(order, range(3), rank=rank, num_ranks=2))
    )
    for step, batch in enumerate(whole):
        halves = [pieces[step], pieces[3 + step]]
        assert torch.equal(torch.cat([half.features for half in halves]), batch.features)
        losses = torch.stack([task.loss(half)[0] for half in halves])
        torch.testing.assert_close(losses.mean(), task.loss(batch)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [(), ("model.code_norms=[4,2,1]",), ("requantize_after_flip=false",)], ids=str)
def test_training_on_the_first_scales_asks_for_the_same_bits(changes: tuple[str, ...]) -> None:
    some = transformer_task(transformer_training(num_scales=2).override(changes))
    batch = next(some.batches(micro_batches_of(SampleOrder(some.counts, 3, 0), range(1))))
    value, logged = some.loss(batch)
    everything = transformer_task(transformer_training().override(changes)).loss(batch)[1]
    assert {name for name in logged if "/" in name} == {
        name for name in everything if "/" in name and not name.endswith("scale_2")
    }
    for name in ("loss/scale_0", "loss/scale_1"):
        torch.testing.assert_close(logged[name], everything[name])
    assert value.item() == pytest.approx((logged["loss/scale_0"] + 4 * logged["loss/scale_1"]).item() / 5)


def test_the_last_scale_is_never_flipped() -> None:
    config = transformer_training(max_flip_strength=1.0, condition_dropout=0.0)
    task = transformer_task(config)
    value, logged = task.loss(next(task.batches([MicroBatch(0, 0, torch.arange(3), 0, 0)])))
    assert value.item() == pytest.approx(math.log(2), abs=0.01)
    assert {f"loss/scale_{k}" for k in range(3)} | {"accuracy"} <= set(logged)


def test_validation_neither_flips_nor_drops() -> None:
    configs = (transformer_training(max_flip_strength=1.0, condition_dropout=1.0), transformer_training())
    values = [
        transformer_task(config).validate(transformer_task(config).model, DistributedContext()) for config in configs
    ]
    assert values[0] == values[1]


def test_the_gammas_may_start_larger_than_released() -> None:
    task = transformer_task(transformer_training(initial_gamma=0.7))
    condition = task.model.encode_condition(task.train.captions.condition([0, 1]))
    gammas = condition.modulation[:, :2] + task.model.blocks[0].modulation[:2]
    torch.testing.assert_close(gammas, torch.full_like(gammas, 0.7), atol=1e-3, rtol=0)
    released = transformer_task(transformer_training()).model
    assert released.blocks[0].modulation[:2].abs().max() < 1e-5
    assert torch.equal(task.model.blocks[0].modulation[2:], released.blocks[0].modulation[2:])


# Overfitting: the whole chain, from images to images

SHAPES = [
    ("a red circle", "ellipse", "red", "white"),
    ("a blue circle", "ellipse", "blue", "white"),
    ("a red square", "rectangle", "red", "white"),
    ("a green square on black", "rectangle", "green", "black"),
    ("a yellow triangle on blue", "triangle", "yellow", "blue"),
    ("a white ring on green", "ring", "white", "green"),
    ("a purple bar on yellow", "bar", "purple", "yellow"),
    ("a black cross", "cross", "black", "orange"),
]


def draw(shape: str, color: str, background: str) -> Image.Image:
    image = Image.new("RGB", (32, 32), background)
    pen = ImageDraw.Draw(image)
    if shape == "ellipse":
        pen.ellipse((7, 7, 24, 24), fill=color)
    elif shape == "rectangle":
        pen.rectangle((8, 8, 23, 23), fill=color)
    elif shape == "triangle":
        pen.polygon([(16, 5), (27, 26), (5, 26)], fill=color)
    elif shape == "ring":
        pen.ellipse((5, 5, 26, 26), outline=color, width=5)
    elif shape == "bar":
        pen.rectangle((2, 12, 29, 19), fill=color)
    else:
        pen.rectangle((13, 3, 18, 28), fill=color)
        pen.rectangle((3, 13, 28, 18), fill=color)
    return image


def embed_words(captions: list[str]) -> CaptionFeatures:
    """A random vector a word: the smallest text encoder there is."""
    words = sorted({word for caption in captions for word in caption.split()})
    vectors = torch.randn(len(words), 32, generator=torch.Generator().manual_seed(0))
    rows = [vectors[[words.index(word) for word in caption.split()]] for caption in captions]
    return CaptionFeatures(torch.cat(rows), torch.tensor([0, *(len(row) for row in rows)]).cumsum(0))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    return -10 * ((a - b) / 2).square().mean(dim=(-3, -2, -1)).log10()


def overfit(folder: Path, *, count: int, tokenizer_steps: int, transformer_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the tokenizer's reconstructions of them, and samples from their captions, in [-1, 1]."""
    shapes = SHAPES[:count]
    arrays = [torch.frombuffer(bytearray(draw(*s[1:]).tobytes()), dtype=torch.uint8).reshape(32, 32, 3) for s in shapes]
    images = torch.stack(arrays).permute(0, 3, 1, 2)
    grids = ((1, 1), (2, 2), (4, 4), (8, 8))
    quiet = IntervalConfig(log=1000, validation=10_000, save=10_000)
    quick: dict[str, Any] = {"optimizer": "muon", "batch_size": count, "warmup_steps": 5, "ema_decay": 0.9}
    config = TokenizerTraining(
        model=TokenizerConfig(bits=8, base_channels=8, channel_multipliers=(1, 2, 2), res_blocks=1, norm_groups=4),
        schedules=(grids,),
        entropy_sharpness=4.0,
        optimization=optimization(steps=tokenizer_steps, learning_rate=1e-2, **quick),
        intervals=quiet,
    )
    task = TokenizerTask(config, train=ImageSet(images), validation=ImageSet(images))
    models = loop.train(task, loop.TrainerConfig(folder / "tokenizer", config.dump(), config.optimization, quiet))
    assert isinstance(models, TokenizerModels)
    tokenizer: InfinityTokenizer = models.tokenizer
    signed = images.float() / 127.5 - 1
    with torch.inference_mode():
        features = tokenizer.features(signed).clone()
        reconstructions = tokenizer.decode(tokenizer.encode(signed, grids)[1])
    captions = embed_words([s[0] for s in shapes])
    data = FeatureSet(features.clone(), captions, [[i] for i in range(count)])
    training = TransformerTraining(
        model=TransformerConfig(
            depth=2, width=64, num_heads=4, bits=8, text_width=32, max_text_tokens=8,
            schedules=(ScheduleConfig(grids=grids, reference=(8, 8)),),
        ),
        optimization=optimization(steps=transformer_steps, learning_rate=8e-3, **quick),
        intervals=quiet,
        max_flip_strength=0.05,
        initial_gamma=1.0,
    )  # fmt: skip
    run = loop.TrainerConfig(folder / "transformer", training.dump(), training.optimization, quiet)
    transformer = loop.train(TransformerTask(training, train=data, validation=data), run)
    assert isinstance(transformer, InfinityTransformer)
    results = generate(
        transformer,
        captions.condition(range(count)),
        training.model.all_schedules()[0],
        params=SamplingParams(guidance_scale=2.0, temperature=0.5),
        seeds=range(count),
    )
    latent = list(results)[-1].latent
    with torch.inference_mode():
        return signed, reconstructions, tokenizer.decode(latent)


def test_eight_images_overfit_and_come_back(tmp_path: Path) -> None:
    images, reconstructions, samples = overfit(tmp_path, count=8, tokenizer_steps=260, transformer_steps=220)
    distances = (samples[:, None] - images[None]).square().mean(dim=(2, 3, 4))
    assert distances.argmin(dim=1).tolist() == list(range(8))
    assert psnr(reconstructions, images).min() > 18
    assert psnr(samples, reconstructions).min() > 18
