"""Distillation of guidance: the targets are the initial model's guided probabilities, and a model learns them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bitvar
from bitvar.errors import UsageError
from bitvar.sampling.draw import apply_guidance
from bitvar.scales import ScaleSchedule
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.engine.loop import TrainerConfig, train
from bitvar.training.engine.microbatch import micro_batches_in_order
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.training.transformer.task import Batch, CaptionFeatures, FeatureSet, TransformerTask
from bitvar.transformer import InfinityTransformer, ScheduleConfig, TransformerConfig
from tests.unit.cli.test_train_refusals import shared, work

__all__ = ["shared", "work"]  # fixtures

GRIDS = ((1, 1), (2, 2), (4, 4))


def configured(**changes: Any) -> TransformerTraining:
    model = TransformerConfig(
        depth=2, width=16, num_heads=2, bits=4, text_width=6, max_text_tokens=5,
        schedules=(ScheduleConfig(grids=GRIDS, reference=(4, 4)),),
    )  # fmt: skip
    settings: dict[str, Any] = {
        "model": model,
        "optimization": OptimizationConfig(
            steps=120, batch_size=8, learning_rate=1e-2, warmup_steps=2, precision="fp32", ema_decay=0.9
        ),
        "intervals": IntervalConfig(log=20, validation=60, sample=200, save=60),
        "condition_dropout": 0.25,
        "guidance_distillation": 4.0,
    }
    return TransformerTraining(**(settings | changes))


def task_of(config: TransformerTraining) -> TransformerTask:
    generator = torch.Generator().manual_seed(0)
    captions = CaptionFeatures(torch.randn(12, 6, generator=generator), torch.tensor([0, 3, 7, 12]))
    features = [torch.randn(8, 4, 4, 4, generator=generator) for _ in range(2)]
    sets = [FeatureSet(each, captions, [[i % 3] for i in range(8)]) for each in features]
    task = TransformerTask(config, train=sets[0], validation=sets[1])
    with torch.no_grad():
        for parameter in task.model.parameters():  # as if it were trained: text and guidance matter
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    task.adapt()
    return task


def whole_batch(task: TransformerTask) -> Batch:
    micro_batches, _ = micro_batches_in_order((8,), rank=0, num_ranks=1, size=8)
    return next(task.batches(micro_batches))


def logits_of(model: InfinityTransformer, batch: Batch, schedule: ScaleSchedule) -> tuple[Tensor, Tensor]:
    """Conditional and unconditional logits of a batch without flips."""
    inputs = teacher_forcing(batch.features, schedule, patch_size=1).inputs
    free = batch.condition.drop(torch.ones(8, dtype=torch.bool))
    with torch.no_grad():
        return model(batch.condition, inputs, schedule), model(free, inputs, schedule)


def test_the_targets_are_what_sampling_draws_from_under_guidance() -> None:
    task = task_of(configured())
    assert task.teacher is not None
    batch, schedule = whole_batch(task), task.schedules[0]
    given, free = logits_of(task.model, batch, schedule)
    expected = torch.softmax(apply_guidance(given, free, 4.0), dim=-1)[..., 1]
    inputs = teacher_forcing(batch.features, schedule, patch_size=1).inputs
    dropped = batch.condition.drop(torch.tensor([True, False] * 4))
    targets = task.teacher.probabilities(dropped, inputs, schedule, dtype=torch.float32)
    assert torch.allclose(targets[1::2], expected[1::2], atol=1e-5)
    assert torch.allclose(targets[::2], torch.softmax(free[::2], dim=-1)[..., 1], atol=1e-5)
    with torch.no_grad():  # the teacher keeps the weights that it began with
        next(task.model.parameters()).zero_()
    again = task.teacher.probabilities(dropped, inputs, schedule, dtype=torch.float32)
    assert torch.equal(again, targets)


def test_a_model_learns_to_draw_alone_what_it_drew_under_guidance(tmp_path: Path) -> None:
    config = configured(max_flip_strength=0.0)
    task = task_of(config)
    batch, schedule = whole_batch(task), task.schedules[0]
    given, free = logits_of(task.model, batch, schedule)
    guided = apply_guidance(given, free, 4.0)
    trained = train(task, TrainerConfig(tmp_path, config.dump(), config.optimization, config.intervals))
    assert isinstance(trained, InfinityTransformer)
    learnt, _ = logits_of(trained, batch, schedule)

    def distance(logits: Tensor) -> float:
        probability, target = (torch.softmax(each, dim=-1)[..., 1] for each in (logits, guided))
        return float((probability - target).abs().mean())

    assert distance(learnt) < 0.35 * distance(given)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    agreement = [line["guided_agreement"] for line in lines if "guided_agreement" in line]
    assert len(agreement) == 2 and 0.5 < agreement[0] <= 1


def test_the_teacher_is_no_part_of_the_model_or_of_a_checkpoint() -> None:
    task, plain = task_of(configured()), task_of(configured(guidance_distillation=None))
    assert plain.teacher is None
    assert task.model.state_dict().keys() == plain.model.state_dict().keys() == task.build_model().state_dict().keys()


def test_a_distilled_model_needs_no_guidance_by_default(work: Path) -> None:
    given: dict[str, Any] = {
        "data": work / "set",
        "settings": {"guidance_distillation": 3.0, "optimization.steps": 1},
        "device": "cpu",
        "workers": 0,
    }
    made = bitvar.train(work / "recipe.py", init=work / "tiny", out=work / "distilled", **given)
    defaults = json.loads((made / "model_index.json").read_text())["defaults"]
    assert defaults["guidance_scale"] == 1.0
    parts = {"tokenizer": work / "tiny" / "image_tokenizer", "text_encoder": work / "tiny" / "text_encoder"}
    with pytest.raises(UsageError, match="Distillation needs a model to --init from"):
        bitvar.train(work / "recipe.py", out=work / "other", **parts, **given)
