"""Adapters that requests choose: applied to their own images only, whatever is drawn beside them."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitvar.lora.layers import LoraBase, LoraSettings, adapter_tensors, add_adapter, save_adapter
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.serving.engine.events import Event, Finished, ImageDone
from bitvar.serving.engine.job import AdapterChoice, Job
from bitvar.serving.engine.loading import describe_model, load_pipeline
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import NamedAdapter, WorkerSettings
from tests.support.tiny import tiny_pipeline


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """A tiny model in a folder, with two adapters that change what it draws."""
    pipeline = tiny_pipeline(tmp_path / "parts")
    generator = torch.Generator().manual_seed(5)
    for parameter in pipeline.transformer.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    pipeline.save_pretrained(tmp_path / "model")
    for name in ("ink", "pixel"):
        lora = LoraSettings(rank=2, alpha=8)
        add_adapter(pipeline.transformer, lora, name=name, generator=generator)
        for parameter in adapter_tensors(pipeline.transformer, name).values():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        save_adapter(
            pipeline.transformer, tmp_path / name, name=name, settings=lora, base=LoraBase(name="tiny", transformer="")
        )
    adapters = tuple(NamedAdapter(name=name, source=str(tmp_path / name)) for name in ("ink", "pixel"))
    return WorkerSettings(model=str(tmp_path / "model"), device="cpu", adapters=adapters)


def job(index: int, *adapters: AdapterChoice) -> Job:
    request = GenerationRequest(prompts=("a red dog",), seed=(index, index + 1), num_images_per_prompt=2)
    return Job(id=f"job{index}", request=request, adapters=adapters)


def drawn_by_pipeline(settings: WorkerSettings, wanted: Job) -> list[Image.Image]:
    pipeline = InfinityPipeline.from_pretrained(settings.model, device="cpu")
    for adapter in settings.adapters:
        pipeline.load_lora_weights(adapter.source, adapter.name)
    pipeline.set_adapters([one.name for one in wanted.adapters], [one.scale for one in wanted.adapters])
    return pipeline("a red dog", seed=[*wanted.request.seeds()], num_images_per_prompt=2).images


def test_each_request_has_its_own_adapters(settings: WorkerSettings) -> None:
    jobs = [
        job(1),
        job(2, AdapterChoice(name="ink")),
        job(3, AdapterChoice(name="pixel", scale=0.5), AdapterChoice(name="ink", scale=-1.0)),
        job(4),
        job(5, AdapterChoice(name="ink")),
    ]
    pipeline = load_pipeline(settings)
    events: list[tuple[str, Event]] = []

    def emit(job_id: str, event: Event) -> None:
        events.append((job_id, event))
        if sum(isinstance(event, Finished) for _, event in events) == len(jobs):
            runner.stop()

    runner = ModelRunner(pipeline, describe_model(pipeline, settings), emit)
    for wanted in jobs:
        runner.submit(wanted)
    runner.run()
    for wanted in jobs:
        images = [event for job_id, event in events if job_id == wanted.id and isinstance(event, ImageDone)]
        ours = [Image.open(io.BytesIO(event.data)).convert("RGB").tobytes() for event in images]
        assert ours == [image.tobytes() for image in drawn_by_pipeline(settings, wanted)], wanted.id
        used = [entry["name"] for entry in images[0].record.get("lora", [])]
        assert used == [one.name for one in wanted.adapters]
    plain, inked = (drawn_by_pipeline(settings, wanted)[0].tobytes() for wanted in (job(2), jobs[1]))
    assert plain != inked, "the adapters do something"
