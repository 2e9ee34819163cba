"""Training of a control adapter: through the engine, resumable, and only for its own model."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import bitvar
from bitvar import UsageError, WeightsError
from bitvar.control.config import ControlSettings
from bitvar.control.file import WEIGHTS, read_control
from bitvar.lora.file import LoraBase
from bitvar.training.config import IntervalConfig, OptimizationConfig, TransformerTraining
from bitvar.training.engine.loop import TrainingInterrupted
from bitvar.training.engine.microbatch import Purpose, make_generator
from bitvar.training.transformer.control import load_edge_maps, vary_maps
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import MANIFEST
from tests.support.tiny import SCHEDULES, TEXT_WIDTH, tiny_pipeline, toy_set


def configuration() -> TransformerTraining:
    return TransformerTraining(
        model=TransformerConfig.parse(
            {
                "depth": 2, "width": 32, "num_heads": 2, "bits": 4, "text_width": TEXT_WIDTH, "max_text_tokens": 16,
                "max_scales": 4, "schedules": SCHEDULES,
            },
            source="the test",
        ),
        optimization=OptimizationConfig(
            steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, precision="fp32"
        ),
        intervals=IntervalConfig(log=1, validation=3, sample=100, save=2),
        control=ControlSettings(channels=(8, 8), depth=0, hidden=8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    toy_set(folder / "set")
    for path in (folder / "set" / "images").glob("*.png"):
        Image.open(path).resize((16, 16)).save(path)
    return folder


def train(shared: Path, out: Path, **more: object) -> Path:
    return bitvar.train(
        configuration(), data=shared / "set", out=out, init=shared / "tiny", device="cpu", workers=0, **more
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(shared: Path) -> Path:
    return train(shared, shared / "run")


def test_a_run_trains_the_adapter_alone_and_learns(shared: Path, finished: Path) -> None:
    assert finished == shared / "run" / "control"
    assert {path.name for path in finished.iterdir()} == {WEIGHTS, MANIFEST}
    loaded = read_control(finished / WEIGHTS, base=LoraBase.of_folder(shared / "tiny"), model=configuration().model)
    assert all(bool(projection.weight.any()) for projection in loaded.adapter.projections)
    lines = [json.loads(line) for line in (shared / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["phase"] == "validation"]
    assert losses[-1] < losses[0]


def test_a_stopped_run_resumes_to_the_same_adapter(shared: Path, finished: Path, tmp_path: Path) -> None:
    def stop_at(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted):
        train(shared, tmp_path / "run", log=stop_at)
    resumed = train(shared, tmp_path / "run")
    assert (resumed / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert train(shared, tmp_path / "run") == resumed  # a finished run is done at once


def test_a_checkpoint_exports_to_the_same_adapter(shared: Path, finished: Path, tmp_path: Path) -> None:
    exported = bitvar.export_run(shared / "run", tmp_path / "exported", init=shared / "tiny")
    assert (exported / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    tiny_pipeline(tmp_path, width=32, depth=2, num_heads=1).save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsError, match="does not belong"):
        bitvar.export_run(shared / "run", tmp_path / "wrong", init=tmp_path / "other")


def test_a_run_without_a_model_or_with_other_adapters_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--init"):
        bitvar.train(
            configuration(), data=shared / "set", out=tmp_path / "run", device="cpu", workers=0,
            tokenizer=shared / "tiny" / "image_tokenizer", text_encoder=shared / "tiny" / "text_encoder",
        )  # fmt: skip
    with pytest.raises(UsageError, match="an adapter of its own"):
        configuration().override(["guidance_distillation=3"])
    with pytest.raises(UsageError, match="doesn't fit the base model"):
        bitvar.train(
            configuration(), data=shared / "set", out=tmp_path / "run", init=shared / "tiny", device="cpu", workers=0,
            settings=["control.channels=[8]"],
        )  # fmt: skip


def test_a_run_does_not_start_from_a_control_adapter(shared: Path, finished: Path, tmp_path: Path) -> None:
    assert finished.is_dir()
    newest = sorted((shared / "run" / "checkpoints").iterdir())[-1]
    with pytest.raises(UsageError, match="holds adapters"):
        bitvar.train(configuration(), data=shared / "set", out=tmp_path / "run", init=newest, device="cpu")


def test_maps_are_the_edges_of_the_images_in_their_order(shared: Path) -> None:
    maps = load_edge_maps(shared / "set", "val")
    assert maps.shape == (3, 16, 16) and maps.dtype == torch.uint8
    assert all(0.05 < float(one.float().mean()) < 0.5 for one in maps)
    assert not torch.equal(maps[0], maps[2])


def test_maps_vary_by_sample_and_not_by_batch() -> None:
    maps = torch.zeros(40, 16, 16, dtype=torch.uint8)
    maps[:, ::4] = 1
    generators = [make_generator(0, i, Purpose.CONTROL) for i in range(40)]
    varied = vary_maps(maps, generators, thick=0.5, erased=0.5)
    again = vary_maps(maps[7:8], [make_generator(0, 7, Purpose.CONTROL)], thick=0.5, erased=0.5)
    assert torch.equal(varied[7:8], again)
    means = varied.mean((1, 2, 3))
    assert float(means.max()) == 11 / 16  # four lines, each three pixels wide, the first at the border
    assert int((means == 0.25).sum()) in range(4, 17) and float(means.min()) < 0.25
    assert torch.equal(vary_maps(maps, generators, thick=0, erased=0)[:, 0], maps.float())
