"""An image is the same bytes whatever else is being drawn, and whoever draws it."""

import random
from collections.abc import Sequence

import pytest

from bitvar import __version__
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.pipeline.image_files import encode_image
from bitvar.pipeline.record import ImageRecord
from bitvar.serving.engine.events import Event, Finished, ImageDone
from bitvar.serving.engine.job import Job, PreviewSettings
from bitvar.serving.engine.loading import describe_model, load_pipeline
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings

PROMPT, SEED = "a red apple", 7


@pytest.fixture(scope="module")
def pipeline() -> InfinityPipeline:
    return load_pipeline(WorkerSettings(device="cpu"))


def job(name: str, prompt: str = PROMPT, *, seeds: Sequence[int] = (SEED,), previews: int = 0) -> Job:
    request = GenerationRequest(prompts=(prompt,), seed=tuple(seeds), num_images_per_prompt=len(seeds))
    return Job(id=name, request=request, previews=PreviewSettings(count=previews))


def drawn(pipeline: InfinityPipeline, *jobs: Job, max_active: int = 8) -> dict[tuple[str, int], bytes]:
    """Draw jobs together; returns the file of each image by job and index."""
    files: dict[tuple[str, int], bytes] = {}
    ended: list[str] = []

    def emit(job_id: str, event: Event) -> None:
        if isinstance(event, ImageDone):
            files[job_id, event.image] = event.data
        if isinstance(event, Finished):
            ended.append(job_id)
            if len(ended) == len(jobs):
                runner.stop()

    card = describe_model(pipeline, WorkerSettings(memory_budget=1 << 30))
    runner = ModelRunner(pipeline, card, emit, max_active=max_active)
    for one in jobs:
        runner.submit(one)
    runner.run()
    return files


def mix(number: int) -> list[Job]:
    """Other jobs, before and after the one that is compared."""
    chosen = random.Random(number)
    others = [
        job(f"other{index}", chosen.choice([PROMPT, "a blue fish", "two cats"]), seeds=range(chosen.randint(1, 3)))
        for index in range(chosen.randint(1, 4))
    ]
    place = chosen.randint(0, len(others))
    return [*others[:place], job("same", previews=chosen.randint(0, 3)), *others[place:]]


def from_pipeline(pipeline: InfinityPipeline) -> bytes:
    result = pipeline(PROMPT, seed=SEED)
    record = ImageRecord.of(result.metadata[0], version=__version__)
    return encode_image(result.images[0], record, "PNG", fast=True)


def test_the_server_draws_what_the_pipeline_draws(pipeline: InfinityPipeline) -> None:
    assert drawn(pipeline, job("same"))["same", 0] == from_pipeline(pipeline)


@pytest.mark.parametrize("number", range(3))
def test_neighbours_change_no_byte(pipeline: InfinityPipeline, number: int) -> None:
    files = drawn(pipeline, *mix(number), max_active=1 + number)
    assert files["same", 0] == from_pipeline(pipeline)


def test_an_image_of_several_is_the_same_as_alone(pipeline: InfinityPipeline) -> None:
    files = drawn(pipeline, job("many", seeds=(3, SEED, 5)), job("same"))
    assert files["many", 1] == files["same", 0]


@pytest.mark.slow
def test_fifty_mixes_change_no_byte(pipeline: InfinityPipeline) -> None:
    expected = from_pipeline(pipeline)
    different = [number for number in range(50) if drawn(pipeline, *mix(number))["same", 0] != expected]
    assert not different
