"""Jobs that edit an image: drawn as the pipeline draws them, never merged with others, and counted truly."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvar.editing.spec import EditSpec, EncodedImage, MixedPrompt
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.pipeline.record import find_record
from bitvar.pipeline.results import ScaleEvent
from bitvar.safety.checks import ALLOWED, SafetyChecks, SafetyDecision
from bitvar.serving.engine.engine import Engine, RefusedJobError
from bitvar.serving.engine.events import Event, Failed, Finished, ImageDone, Preview
from bitvar.serving.engine.job import Job, OutputSettings, PreviewSettings
from bitvar.serving.engine.loading import describe_model
from bitvar.serving.engine.memory import PIXEL_BYTES, further_prompts, image_bytes
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.engine.wire import job_frame, pack, parse_job, read_frame
from tests.support.image_files import encoded, smooth_image
from tests.support.serving import CARD, ScriptedBackend
from tests.support.tiny import rough_pipeline

SIZE = (16, 16)
SCALES = 3


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("tiny"))


def half(size: tuple[int, int] = SIZE) -> bytes:
    """A mask that is white in its right half."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return encoded(mask)


def spec(seed: int = 0, **options: Any) -> EditSpec:
    mask = options.pop("mask", None)
    if mask is not None:
        options["mask"] = EncodedImage.of(mask)
    return EditSpec(image=EncodedImage.of(encoded(smooth_image(options.pop("size", SIZE), seed=seed))), **options)


def job(name: str, edit: EditSpec | None, prompt: str = "a red dog", *, n: int = 1, **options: Any) -> Job:
    more = options.pop("request", {})
    request = GenerationRequest(
        **{"prompts": (prompt,), "seed": tuple(range(n)), "num_images_per_prompt": n, "edit": edit, **more}
    )
    return Job(id=name, request=request, **options)


def drawn(pipeline: InfinityPipeline, *jobs: Job, **options: Any) -> tuple[dict[str, list[Event]], list[int]]:
    """Draw jobs to their end. Returns their events, and how many images each pass had."""
    events: dict[str, list[Event]] = {one.id: [] for one in jobs}
    passes: list[int] = []
    wrapped = InfinityPipeline(pipeline.components)

    def stream(request: GenerationRequest, **more: Any) -> Iterator[ScaleEvent]:
        passes.append(len(request.prompts))
        yield from pipeline.stream_request(request, **more)

    wrapped.stream_request = stream  # type: ignore[method-assign]

    def emit(name: str, event: Event) -> None:
        events[name].append(event)
        if all(isinstance(one[-1], Finished | Failed) for one in events.values() if one) and all(events.values()):
            runner.stop()

    card = describe_model(pipeline, WorkerSettings(memory_budget=1 << 30))
    runner = ModelRunner(wrapped, card, emit, **options)
    for one in jobs:
        runner.submit(one)
    runner.run()
    return events, passes


def files(events: list[Event]) -> list[bytes]:
    assert isinstance(events[-1], Finished), events
    return [event.data for event in events if isinstance(event, ImageDone)]


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_an_edit_is_that_of_the_pipeline_and_its_record_says_so(pipeline: InfinityPipeline) -> None:
    edit = spec(mask=half(), strength=0.7)
    events, _ = drawn(pipeline, job("a", edit, n=2, previews=PreviewSettings(count=2)))
    expected = pipeline("a red dog", edit=edit, seed=0, num_images_per_prompt=2).images
    assert [pixels(data).tobytes() for data in files(events["a"])] == [image.tobytes() for image in expected]
    record = find_record(files(events["a"])[1])
    assert record is not None and record.edit is not None
    assert (record.prompt, record.seed, record.edit.kept_scales) == ("a red dog", 1, 1)
    assert record.edit.image_sha256 == edit.image.sha256
    assert sum(isinstance(event, Preview) for event in events["a"]) == 4


def test_edits_without_a_prompt_are_drawn(pipeline: InfinityPipeline) -> None:
    events, _ = drawn(pipeline, job("a", spec(), ""))
    (data,) = files(events["a"])
    assert pixels(data).tobytes() == pipeline.edit("", image=encoded(smooth_image(SIZE)), seed=0).images[0].tobytes()
    record = find_record(data)
    assert record is not None and record.prompt == ""


def test_exact_edits_have_the_size_of_the_image(pipeline: InfinityPipeline) -> None:
    size = (40, 24)
    edit = spec(size=size, mask=half(size), exact=True)
    events, _ = drawn(pipeline, job("a", edit, previews=PreviewSettings(count=1)))
    (done,) = [event for event in events["a"] if isinstance(event, ImageDone)]
    assert (done.width, done.height) == size
    original = np.asarray(smooth_image(size))
    assert np.array_equal(pixels(done.data)[:, :20], original[:, :20])
    assert not np.array_equal(pixels(done.data), original)
    (preview,) = [event for event in events["a"] if isinstance(event, Preview)]
    assert Image.open(io.BytesIO(preview.data)).size == size


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_exact_edits_of_transparent_images_may_be_opaque(pipeline: InfinityPipeline, kind: str) -> None:
    image = EncodedImage.of(encoded(smooth_image(SIZE, mode="RGBA")))
    edit = EditSpec(image=image, mask=EncodedImage.of(half()), exact=True)
    for background in ("auto", "opaque"):
        one = job("a", edit, request={"background": background}, output=OutputSettings(format=kind))
        (data,) = files(drawn(pipeline, one)[0]["a"])
        has_alpha = "A" in Image.open(io.BytesIO(data)).mode
        assert has_alpha == (background == "auto" and kind != "jpeg")


def test_passes_never_merge_edits_with_anything_else(pipeline: InfinityPipeline) -> None:
    jobs = [
        job("a", spec(0), n=2),
        job("b", spec(1), n=2),
        job("same", spec(0), n=2),
        job("new", None, n=2),
        job("newer", None, n=2),
        job("mixed", None, n=2, request={"mix": (MixedPrompt(prompt="red cat", weight=0.5),)}),
        job("negative", spec(0), n=2, request={"negative_prompt": "cat", "params": {"guidance_scale": 3.0}}),
    ]
    events, passes = drawn(pipeline, *jobs, batch_invariant=False, max_batch=8)
    assert sorted(passes) == [2, 2, 2, 2, 2, 4]  # only the two new ones share one
    for one in jobs:
        alone = [pixels(data) for data in files(drawn(pipeline, one)[0][one.id])]
        together = [pixels(data) for data in files(events[one.id])]
        assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(alone, together, strict=True)), one.id


def test_usage_counts_every_text_and_the_image(pipeline: InfinityPipeline) -> None:
    edit = spec(mask=half(), source_prompt="red cat dog")
    events, _ = drawn(pipeline, job("a", edit, n=2))
    last = events["a"][-1]
    assert isinstance(last, Finished) and pipeline.text_encoder is not None
    count = pipeline.text_encoder.num_tokens
    assert last.usage.text_tokens == count("a red dog") + count("red cat dog")
    assert (last.usage.image_tokens, last.usage.source_tokens) == (42, 21)


def test_source_prompts_are_cut_and_checked_too(pipeline: InfinityPipeline) -> None:
    class NoCats:
        def check_prompt(self, text: str) -> SafetyDecision:
            return SafetyDecision(allowed="cat" not in text)

        def check_image(self, image: Image.Image) -> SafetyDecision:
            return ALLOWED

    long = job("long", spec(source_prompt="red dog " * 50), "red dog")
    cat = job("cat", spec(source_prompt="a cat"), "red dog")
    mixed = job("mixed", None, request={"mix": (MixedPrompt(prompt="a cat"),)})
    events, _ = drawn(pipeline, long, cat, mixed, checks=SafetyChecks([NoCats()]))
    last = events["long"][-1]
    assert isinstance(last, Finished) and "source prompt was cut" in last.warnings[0]
    for name in ("cat", "mixed"):
        (failed,) = events[name]
        assert isinstance(failed, Failed) and failed.code == "moderation_blocked"


def test_an_image_that_can_not_be_used_ends_its_job_alone(pipeline: InfinityPipeline) -> None:
    bad = job("bad", EditSpec(image=EncodedImage.of(b"nothing")))
    events, _ = drawn(pipeline, bad, job("good", spec()))
    assert isinstance(events["bad"][-1], Failed) and events["bad"][-1].code == "invalid_value"
    assert files(events["good"])


# Memory

SMALL = CARD.sizes[0].model_copy(update={"image_bytes": 1000, "prompt_bytes": 300})


@pytest.mark.parametrize(
    ("edit", "mix", "count"),
    [
        (None, (), 0),
        (spec(), (), 0),
        (spec(source_prompt="a"), (), 0),  # it is read before the image is drawn
        (spec(source_prompt="a", mask=half()), (), 1),
        (spec(source_prompt="a", method="difference"), (), 1),
        (None, (MixedPrompt(prompt="a"), MixedPrompt(prompt="b")), 2),
    ],
)
def test_further_prompts_take_memory(edit: EditSpec | None, mix: Any, count: int) -> None:
    one = job("a", edit, request={"mix": mix})
    assert further_prompts(one.request) == count
    assert image_bytes(one, SMALL, CARD) == 1000 + 300 * count


def test_pasting_takes_main_memory() -> None:
    one = job("a", spec(mask=half(), exact=True), source_pixels=256)
    assert image_bytes(one, SMALL, CARD) == 1000 + 256 * PIXEL_BYTES
    assert image_bytes(one, SMALL, CARD.model_copy(update={"device": "cuda"})) == 1000


def test_a_model_says_what_a_further_prompt_takes(pipeline: InfinityPipeline) -> None:
    card = describe_model(pipeline, WorkerSettings())
    assert all(0 < size.prompt_bytes < size.image_bytes for size in card.sizes)


def test_edits_that_do_not_fit_are_refused() -> None:
    card = ModelCard(**{**CARD.model_dump(), "sizes": (SMALL,), "memory_budget": 1200})
    engine = Engine(ScriptedBackend(card))
    one = job("a", spec(source_prompt="a", mask=half()), request={"width": 64, "height": 64})
    with pytest.raises(RefusedJobError) as refused:
        engine.submit(one)
    assert refused.value.reason == "too_large"


# Between processes


def test_large_images_cross_processes() -> None:
    """A frame's header holds 4 MiB, and an image may be larger."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    image = EncodedImage.of(encoded(Image.fromarray(noise), compress_level=0))
    one = job("a", EditSpec(image=image))
    frame = read_frame(io.BytesIO(pack(job_frame(one))).read)
    assert frame is not None and len(frame.data) > 4 << 20
    assert parse_job(frame) == one
