"""Training of instruction editors: the task on the one loop, runs that resume, and the editor that comes out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitvar.errors import UsageError
from bitvar.lora.layers import LoraSettings, adapter_tensors
from bitvar.pipeline.instruction_editor import InstructionEditor
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.engine.loop import TrainerConfig, TrainingStoppedError
from bitvar.training.engine.metrics_log import read_metrics
from bitvar.training.instruction.assemble import train_instruction_editor
from bitvar.training.options import FrozenModels
from bitvar.transformer import TransformerConfig
from bitvar.weights.instruction import InstructionSettings
from tests.support.tiny import tiny_pipeline

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220)}
STEPS = 2


def pairs(folder: Path, counts: dict[str, int]) -> Path:
    """Squares of one colour, and the same in another, at the tiny models' 16 pixels."""
    rows: dict[str, list[dict]] = {"sources": [], "targets": []}
    for part in rows:
        (folder / part).mkdir(parents=True)
    number = 0
    for split, count in counts.items():
        for i in range(count):
            before, after = (list(COLOURS)[(i + shift) % 3] for shift in (0, 1))
            captions = {"sources": [f"a {before} square"], "targets": [f"a {after} square", after]}
            for part, colour in (("sources", before), ("targets", after)):
                name = f"{number}.png"
                Image.new("RGB", (16, 16), tuple(c - i for c in COLOURS[colour])).save(folder / part / name)
                rows[part].append({"image_path": name, "captions": captions[part], "split": split})
            number += 1
    for part, lines in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (folder / part / "samples.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder / "work").save_pretrained(folder / "tiny")
    return folder / "tiny"


def configuration(model: Path, **changes: object) -> TransformerTraining:
    return TransformerTraining(
        model=TransformerConfig.load(model / "transformer" / "config.json"),
        optimization=OptimizationConfig(steps=STEPS, batch_size=4, learning_rate=1e-2, warmup_steps=0),
        intervals=IntervalConfig(log=1, validation=STEPS, sample=100, save=1),
        lora=LoraSettings(rank=2, alpha=2.0),
    ).model_copy(update=changes)


def train(model: Path, data: Path, out: Path, *, stop: Callable[[], bool] = lambda: False, **changes: object) -> Path:
    config = configuration(model, **changes)
    run = TrainerConfig(out, config.dump(), config.optimization, config.intervals, stop=stop)
    settings = InstructionSettings(positions="aligned")
    device = torch.device("cpu")
    models = FrozenModels(initial=model)
    return train_instruction_editor(config, run, data=data, models=models, device=device, settings=settings)


def weights(editor: Path, model: Path) -> dict[str, torch.Tensor]:
    loaded = InstructionEditor.from_pretrained(editor, model=model)
    return {k: v.detach() for k, v in adapter_tensors(loaded.pipeline.transformer, "instruction").items()}


def test_a_run_that_was_stopped_resumes_to_the_same_editor(model: Path, tmp_path: Path) -> None:
    data = pairs(tmp_path / "data", {"train": 8, "val": 2})
    whole = train(model, data, tmp_path / "whole")
    with pytest.raises(TrainingStoppedError):
        train(model, data, tmp_path / "parts", stop=lambda: True)
    resumed = train(model, data, tmp_path / "parts")
    assert train(model, data, tmp_path / "parts") == resumed  # a finished run is left as it is
    first, second = weights(whole, model), weights(resumed, model)
    assert first.keys() == second.keys() and first
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(tensor.abs().max() > 0 for name, tensor in first.items() if "lora_B" in name)
    measured = read_metrics(tmp_path / "whole")["validation"]["accuracy_changed"]
    assert 0 <= measured[-1][1] <= 1

    editor = InstructionEditor.from_pretrained(whole, model=model)
    source = Image.new("RGB", (40, 40), "red")
    image = editor("a green square", source, seed=1).images[0]
    assert image.size == (16, 16)
    assert editor("a green square", source, seed=1).images[0].tobytes() == image.tobytes()


def test_other_sources_are_another_run(model: Path, tmp_path: Path) -> None:
    data = pairs(tmp_path / "data", {"train": 8, "val": 2})
    with pytest.raises(TrainingStoppedError):
        train(model, data, tmp_path / "run", stop=lambda: True)
    Image.new("RGB", (16, 16), "white").save(data / "sources" / "0.png")
    with pytest.raises(UsageError, match=r"data \(sources\)"):
        train(model, data, tmp_path / "run")


def test_sets_that_do_not_belong_together(model: Path, tmp_path: Path) -> None:
    data = pairs(tmp_path / "data", {"train": 4, "val": 2})
    lines = (data / "sources" / "samples.jsonl").read_text().splitlines()
    (data / "sources" / "samples.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(UsageError, match="Every edited image needs its source"):
        train(model, data, tmp_path / "run")
    with pytest.raises(UsageError, match="trains no instruction editor"):
        train(model, data, tmp_path / "run", lora=None)
