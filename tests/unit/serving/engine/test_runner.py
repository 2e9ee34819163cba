"""The runner, with a tiny model: what a job costs, what ends it, and that nothing else is touched."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bitvar.errors import ComputationError, UsageError
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.pipeline.results import ScaleEvent
from bitvar.serving.engine.encoding import ImageEncoder
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageDone,
    Preview,
    ScaleDone,
    Started,
)
from bitvar.serving.engine.job import Job, OutputSettings, PreviewSettings
from bitvar.serving.engine.loading import describe_model
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from tests.support.tiny import tiny_pipeline

SCALES = 3


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@dataclass
class Drawing:
    """Runs jobs to their end, and records what happens.

    Attributes:
        pipeline: Model.
        before_scale: Called in the drawing thread before each scale, with the prompts of the pass and the scale; what
            it asks of the runner arrives while that scale is drawn.
        options: Options of the runner.
    """

    pipeline: InfinityPipeline
    before_scale: Callable[["Drawing", tuple[str, ...], int], None] = lambda drawing, prompts, scale: None
    options: dict[str, Any] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    scales: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    """Prompts and index of every scale that was begun."""

    def __post_init__(self) -> None:
        card = describe_model(self.pipeline, WorkerSettings(memory_budget=1 << 30))
        self.runner = ModelRunner(self._wrapped(), card, self._emit, **self.options)
        self._open: set[str] = set()

    def run(self, *jobs: Job) -> "Drawing":
        for one in jobs:
            self.submit(one)
        self.runner.run()
        return self

    def submit(self, one: Job) -> None:
        self._open.add(one.id)
        self.events[one.id] = []
        self.runner.submit(one)

    def last(self, job_id: str) -> Event:
        """The last event of a job, after a check that it is the only one of its kind."""
        *before, last = self.events[job_id]
        assert not any(isinstance(event, Finished | Failed | Cancelled) for event in before)
        return last

    def of(self, job_id: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.events[job_id] if isinstance(event, kind)]

    def _emit(self, job_id: str, event: Event) -> None:
        self.events[job_id].append(event)
        if isinstance(event, Finished | Failed | Cancelled):
            self._open.discard(job_id)
            if not self._open:
                self.runner.stop()

    def _wrapped(self) -> InfinityPipeline:
        """The pipeline, calling `before_scale`."""
        original = self.pipeline
        wrapped = InfinityPipeline(original.components)

        def stream(request: GenerationRequest, **options: Any) -> Iterator[ScaleEvent]:
            events = original.stream_request(request, **options)
            for scale in range(SCALES):
                self.scales.append((tuple(request.prompts), scale))
                self.before_scale(self, tuple(request.prompts), scale)
                yield next(events)

        wrapped.stream_request = stream  # type: ignore[method-assign]
        return wrapped


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    """A model that draws opacity."""
    return tiny_pipeline(tmp_path_factory.mktemp("clear"), image_channels=4)


def job(name: str, prompt: str = "a red dog", *, n: int = 1, previews: int = 0) -> Job:
    request = GenerationRequest(prompts=(prompt,), seed=tuple(range(n)), num_images_per_prompt=n)
    return Job(id=name, request=request, previews=PreviewSettings(count=previews))


def test_events_come_in_order_and_usage_is_true(pipeline: InfinityPipeline) -> None:
    drawing = Drawing(pipeline).run(job("a", n=2, previews=2))
    kinds = [type(event) for event in drawing.events["a"]]
    image = [ScaleDone, Preview, ScaleDone, Preview, ScaleDone, ImageDone]
    assert kinds == [Started, *image, *image, Finished]
    last = drawing.last("a")
    assert isinstance(last, Finished)
    assert last.usage.image_tokens == 2 * (1 + 4 + 16)
    assert pipeline.text_encoder is not None
    assert last.usage.text_tokens == pipeline.text_encoder.num_tokens("a red dog")
    done = drawing.of("a", ScaleDone)[SCALES:]
    assert [(event.image, event.scale, event.scales, event.grid) for event in done] == [
        (1, 0, 3, (1, 1)),
        (1, 1, 3, (2, 2)),
        (1, 2, 3, (4, 4)),
    ]
    assert [event.tokens_done for event in done] == [1, 5, 21]
    assert [event.seed for event in drawing.of("a", ImageDone)] == [0, 1]


@pytest.mark.parametrize("scale", range(2 * SCALES))
def test_cancelling_costs_no_more_than_the_scale_being_drawn(pipeline: InfinityPipeline, scale: int) -> None:
    def cancel(drawing: Drawing, prompts: tuple[str, ...], _: int) -> None:
        if len(drawing.scales) == scale + 1:
            drawing.runner.cancel("a")

    drawing = Drawing(pipeline, cancel).run(job("a", n=3, previews=2))
    assert drawing.last("a") == Cancelled(scale + 1)
    assert len(drawing.scales) == scale + 1
    assert len(drawing.of("a", ScaleDone)) == scale + 1, "what was drawn is counted"


def test_cancelling_a_job_that_waits_costs_nothing(pipeline: InfinityPipeline) -> None:
    def cancel(drawing: Drawing, prompts: tuple[str, ...], scale: int) -> None:
        drawing.runner.cancel("b")

    drawing = Drawing(pipeline, cancel).run(job("a"), job("b", "two dog"))
    assert drawing.events["b"] == [Cancelled(0)]
    assert isinstance(drawing.last("a"), Finished)
    assert len(drawing.scales) == SCALES


def test_cancelling_the_unknown_and_the_finished_does_nothing(pipeline: InfinityPipeline) -> None:
    def cancel(drawing: Drawing, prompts: tuple[str, ...], scale: int) -> None:
        drawing.runner.cancel("nobody")
        if prompts == ("two dog",):
            drawing.runner.cancel("a")

    drawing = Drawing(pipeline, cancel).run(job("a"), job("b", "two dog"))
    assert isinstance(drawing.last("a"), Finished) and isinstance(drawing.last("b"), Finished)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("That can't be drawn.", "it is too odd", "ask for another"), "invalid_value", "too odd"),
        (MemoryError(), "out_of_memory", "smaller"),
        (ComputationError("The head gave NaN.", "it overflowed", "use fp32"), "server_error", "NaN"),
        (RuntimeError("a secret of the server"), "server_error", "fault"),
        (KeyError("x"), "server_error", "fault"),
    ],
)
@pytest.mark.parametrize("scale", [0, 2])
def test_an_error_ends_only_its_job(
    pipeline: InfinityPipeline, error: Exception, code: str, says: str, scale: int
) -> None:
    def fail(drawing: Drawing, prompts: tuple[str, ...], drawn: int) -> None:
        if prompts == ("red cat",) and drawn == scale:
            raise error

    drawing = Drawing(pipeline, fail).run(job("a"), job("bad", "red cat", n=2), job("c"))
    failed = drawing.last("bad")
    assert isinstance(failed, Failed) and failed.code == code
    assert says in failed.message and "secret" not in failed.message
    assert isinstance(drawing.last("a"), Finished) and isinstance(drawing.last("c"), Finished)


def test_an_error_while_a_job_is_prepared_ends_only_that_job(
    pipeline: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = Drawing(pipeline)
    prepare = ModelRunner._prepare

    def broken(self: ModelRunner, outbox: Any, arrived: float) -> Any:
        if outbox.job.id == "bad":
            raise ZeroDivisionError
        return prepare(self, outbox, arrived)

    monkeypatch.setattr(ModelRunner, "_prepare", broken)
    drawing.run(job("bad"), job("good"))
    failed = drawing.last("bad")
    assert isinstance(failed, Failed) and failed.code == "server_error"
    assert isinstance(drawing.last("good"), Finished)


class BrokenEncoder(ImageEncoder):
    """Can't write images of cats."""

    def image(self, image: Image.Image, metadata: Any, output: Any) -> Any:
        if metadata["prompt"] == "red cat":
            raise OSError("broken")
        return super().image(image, metadata, output)


def test_an_image_that_can_not_be_written_ends_its_job_once(pipeline: InfinityPipeline) -> None:
    drawing = Drawing(pipeline, options={"encoder": BrokenEncoder()}).run(job("bad", "red cat", n=3), job("good"))
    failed = drawing.last("bad")
    assert isinstance(failed, Failed) and failed.code == "server_error"
    assert isinstance(drawing.last("good"), Finished)


def test_texts_too_long_are_cut_and_it_is_said(pipeline: InfinityPipeline) -> None:
    drawing = Drawing(pipeline).run(job("long", "red dog " * 50), job("short"))
    last, other = drawing.last("long"), drawing.last("short")
    assert isinstance(last, Finished) and isinstance(other, Finished)
    assert last.usage.text_tokens <= 16
    assert "16 tokens" in " ".join(last.warnings) and not other.warnings
    (image,) = drawing.of("long", ImageDone)
    assert image.record["prompt"].startswith("red dog") and len(image.record["prompt"]) < 120


def test_jobs_share_passes_without_batch_invariance(pipeline: InfinityPipeline) -> None:
    options = {"batch_invariant": False, "max_batch": 4}
    jobs = [job("a", n=2), job("b", "two dog"), job("c", "red cat")]
    drawing = Drawing(pipeline, options=options).run(*jobs)
    assert sorted(drawing.scales[0][0]) == ["a red dog", "a red dog", "red cat", "two dog"]
    assert len(drawing.scales) == SCALES
    for one in jobs:
        assert isinstance(drawing.last(one.id), Finished)
        assert len(drawing.of(one.id, ImageDone)) == one.request.num_images
    assert [image.record["prompt"] for image in drawing.of("b", ImageDone)] == ["two dog"]


@pytest.mark.parametrize("scale", range(SCALES))
def test_cancelling_one_image_of_a_pass_leaves_the_others(pipeline: InfinityPipeline, scale: int) -> None:
    def cancel(drawing: Drawing, prompts: tuple[str, ...], drawn: int) -> None:
        if drawn == scale:
            drawing.runner.cancel("b")

    options = {"batch_invariant": False, "max_batch": 4}
    jobs = [job("a", previews=2), job("b", "two dog", n=2, previews=2), job("c", "red cat", previews=2)]
    drawing = Drawing(pipeline, cancel, options).run(*jobs)
    whole = Drawing(pipeline, options=options).run(*jobs)
    assert len(drawing.scales) == SCALES
    for kept in ("a", "c"):
        assert [type(event) for event in drawing.events[kept]] == [type(event) for event in whole.events[kept]]
        assert drawing.of(kept, ImageDone)[0].data == whole.of(kept, ImageDone)[0].data
    if scale < SCALES - 1:
        assert drawing.last("b") == Cancelled(2 * (scale + 1))


def test_a_pass_of_which_nobody_wants_an_image_is_not_finished(pipeline: InfinityPipeline) -> None:
    def cancel(drawing: Drawing, prompts: tuple[str, ...], drawn: int) -> None:
        for name in "ab":
            drawing.runner.cancel(name)

    options = {"batch_invariant": False, "max_batch": 4}
    drawing = Drawing(pipeline, cancel, options).run(job("a"), job("b", "two dog"))
    assert drawing.last("a") == drawing.last("b") == Cancelled(1)
    assert len(drawing.scales) == 1


def test_a_short_job_passes_a_batch_that_is_being_drawn(pipeline: InfinityPipeline) -> None:
    def submit(drawing: Drawing, prompts: tuple[str, ...], drawn: int) -> None:
        if len(drawing.scales) == 2:
            drawing.submit(job("short", "two dog"))

    drawing = Drawing(pipeline, submit).run(job("batch", n=12))
    places = [index for index, (prompts, _) in enumerate(drawing.scales) if prompts == ("two dog",)]
    assert len(places) == SCALES and places[-1] < 20  # of 39 scales
    assert isinstance(drawing.last("batch"), Finished)


ACTIONS = st.lists(st.tuples(st.sampled_from(["cancel", "submit", "fail"]), st.integers(0, 5)), max_size=8)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, st.booleans(), st.integers(1, 3))
def test_whatever_arrives_between_scales_each_job_ends_once(
    pipeline: InfinityPipeline, actions: list[tuple[str, int]], invariant: bool, active: int
) -> None:
    left = list(actions)

    def act(drawing: Drawing, prompts: tuple[str, ...], scale: int) -> None:
        if not left:
            return
        action, number = left.pop(0)
        if action == "cancel":
            drawing.runner.cancel(f"{number}")
        elif action == "submit":
            drawing.submit(job(f"{len(drawing.events)}", n=1 + number % 2, previews=number % 3))
        else:
            raise RuntimeError("broken")

    options = {"batch_invariant": invariant, "max_active": active, "max_batch": 3}
    drawing = Drawing(pipeline, act, options).run(job("0", n=2), job("1", previews=1), job("2"))
    for job_id in drawing.events:
        last = drawing.last(job_id)
        assert isinstance(last, Finished | Failed | Cancelled)
        drawn = len(drawing.of(job_id, ScaleDone))
        if isinstance(last, Cancelled):
            assert last.scales == drawn
    if invariant:
        broken = sum(action == "fail" for action, _ in actions[: len(actions) - len(left)])
        assert sum(len(drawing.of(job_id, ScaleDone)) for job_id in drawing.events) == len(drawing.scales) - broken


def test_the_card_says_whether_images_can_be_transparent(clear: InfinityPipeline, pipeline: InfinityPipeline) -> None:
    settings = WorkerSettings(memory_budget=1 << 30)
    assert describe_model(clear, settings).alpha and not describe_model(pipeline, settings).alpha


@pytest.mark.parametrize(
    ("background", "form", "mode"),
    [
        ("auto", "png", "RGBA"),
        ("auto", "webp", "RGBA"),
        ("auto", "jpeg", "RGB"),
        ("transparent", "png", "RGBA"),
        ("transparent", "webp", "RGBA"),
        ("opaque", "png", "RGB"),
        ("opaque", "webp", "RGB"),
        ("opaque", "jpeg", "RGB"),
    ],
)
@pytest.mark.parametrize("size", [None, (20, 12)])
def test_images_and_previews_have_the_background(
    clear: InfinityPipeline, background: Any, form: Any, mode: str, size: tuple[int, int] | None
) -> None:
    wanted = job("a", previews=2).model_copy(update={"output": OutputSettings(format=form, size=size)})
    request = wanted.request.model_copy(update={"background": background})
    drawing = Drawing(clear).run(wanted.model_copy(update={"request": request}))
    files = [*drawing.of("a", Preview), *drawing.of("a", ImageDone)]
    images = [Image.open(io.BytesIO(event.data)) for event in files]
    assert [(image.mode, image.size) for image in images] == [(mode, size or (16, 16))] * 3
    (done,) = drawing.of("a", ImageDone)
    assert done.record.get("background", "auto") == background


def test_jobs_of_other_backgrounds_share_no_pass(clear: InfinityPipeline) -> None:
    jobs = [job("a", "a dog"), job("b", "a cat"), job("c", "a red dog")]
    opaque = jobs[1].request.model_copy(update={"background": "opaque"})
    jobs[1] = jobs[1].model_copy(update={"request": opaque})
    drawing = Drawing(clear, options={"batch_invariant": False}).run(*jobs)
    files = {name: drawing.of(name, ImageDone)[0].data for name in "abc"}
    assert {name: Image.open(io.BytesIO(data)).mode for name, data in files.items()} == {
        "a": "RGBA", "b": "RGB", "c": "RGBA"
    }  # fmt: skip
    assert ("a dog", "a red dog") in {prompts for prompts, _ in drawing.scales}
