"""Watermark, signature and safety check of what the server draws."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.provenance import Signer, Watermark, read_manifest, write_key
from bitvar.safety.blocklist import Blocklist
from bitvar.safety.checks import ALLOWED, SafetyChecks, SafetyDecision
from bitvar.serving.engine.encoding import ImageEncoder
from bitvar.serving.engine.events import Cancelled, Event, Failed, Finished, ImageDone, Preview, ScaleDone
from bitvar.serving.engine.job import Job, OutputSettings, PreviewSettings
from bitvar.serving.engine.loading import build_runner, describe_model
from bitvar.serving.engine.runner import ModelRunner
from bitvar.serving.engine.settings import WorkerSettings
from tests.support.certificates import signer_files
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def job(prompt: str = "a red dog", negative: str | None = None, **options: Any) -> Job:
    request = GenerationRequest(prompts=(prompt,), negative_prompt=negative, seed=(3,))
    return Job(id="job", request=request, previews=PreviewSettings(count=2), **options)


def draw(wanted: Job, pipeline: InfinityPipeline, **options: Any) -> list[Event]:
    """What happens to a job, up to its last event."""
    events: list[Event] = []

    def emit(job_id: str, event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished | Failed | Cancelled):
            runner.stop()

    card = describe_model(pipeline, WorkerSettings(memory_budget=1 << 30))
    runner = ModelRunner(pipeline, card, emit, **options)
    runner.submit(wanted)
    runner.run()
    return events


class Seer:
    """A checker that blocks from the nth image on, or raises there."""

    def __init__(self, allowed_images: int, error: Exception | None = None) -> None:
        self.left, self.error = allowed_images, error

    def check_prompt(self, prompt: str) -> SafetyDecision:
        return ALLOWED

    def check_image(self, image: Image.Image) -> SafetyDecision:
        self.left -= 1
        if self.left >= 0:
            return ALLOWED
        if self.error is not None:
            raise self.error
        return SafetyDecision(allowed=False, category="test")


def test_every_image_carries_the_watermark(pipeline: InfinityPipeline) -> None:
    watermark = Watermark.new(first_scale=0)
    image = next(e for e in draw(job(), pipeline, watermark=watermark) if isinstance(e, ImageDone))
    expected = pipeline("a red dog", seed=3, watermark=watermark).images[0]
    assert Image.open(io.BytesIO(image.data)).tobytes() == expected.tobytes()
    assert image.record["watermark"] == watermark.key_id


def test_every_file_is_signed_and_keeps_its_settings(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    files = signer_files(tmp_path)
    encoder = ImageEncoder(Signer.from_files(files.certificate, files.key))
    image = next(e for e in draw(job(), pipeline, encoder=encoder) if isinstance(e, ImageDone))
    assert read_manifest(image.data).state == "valid"
    assert image.record["prompt"] == "a red dog"


@pytest.mark.parametrize("wanted", [job("a Forbidden thing"), job("a dog", "a forbidden  thing")])
def test_a_blocked_prompt_draws_nothing(pipeline: InfinityPipeline, wanted: Job) -> None:
    checks = SafetyChecks([Blocklist({"forbidden thing": "test"})])
    events = draw(wanted, pipeline, checks=checks)
    assert [(type(event), getattr(event, "code", None)) for event in events] == [(Failed, "moderation_blocked")]
    assert "thing" not in events[0].message


@pytest.mark.parametrize("allowed_images", [0, 1, 2])
@pytest.mark.parametrize("error", [None, RuntimeError("out of order")])
def test_a_blocked_image_or_preview_is_never_sent(
    pipeline: InfinityPipeline, allowed_images: int, error: Exception | None
) -> None:
    encoder = ImageEncoder(checks=SafetyChecks([Seer(allowed_images, error)]))
    events = draw(job(), pipeline, encoder=encoder)
    assert sum(isinstance(event, Preview) for event in events) == allowed_images
    assert not any(isinstance(event, ImageDone | Finished) for event in events)
    assert isinstance(events[-1], Failed) and events[-1].code == "moderation_blocked"
    assert sum(isinstance(event, Failed) for event in events) == 1


def test_the_settings_name_files(tmp_path: Path, pipeline: InfinityPipeline) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    write_key(Watermark.new(first_scale=0), tmp_path / "key.json")
    (tmp_path / "words.txt").write_text("a bad word\n", encoding="utf-8")
    settings = WorkerSettings(
        model=str(tmp_path / "model"),
        device="cpu",
        watermark=str(tmp_path / "key.json"),
        blocklists=(str(tmp_path / "words.txt"),),
        memory_budget=1 << 30,
    )
    events: list[Event] = []

    def emit(job_id: str, event: Event) -> None:
        events.append(event)
        if isinstance(event, Finished | Failed):
            runner.submit(job()) if isinstance(event, Failed) else runner.stop()

    runner, card = build_runner(settings, emit)
    runner.submit(job("a bad word"))
    runner.run()
    assert isinstance(events[0], Failed) and any(isinstance(event, ScaleDone) for event in events)
    assert next(event for event in events if isinstance(event, ImageDone)).record["watermark"]
    assert card.name == "tiny"


def test_a_watermark_that_would_mark_nothing_is_refused_at_once(tmp_path: Path, pipeline: InfinityPipeline) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    write_key(Watermark.new(first_scale=3), tmp_path / "key.json")
    settings = WorkerSettings(model=str(tmp_path / "model"), device="cpu", watermark=str(tmp_path / "key.json"))
    with pytest.raises(UsageError, match="would mark nothing"):
        build_runner(settings, lambda job_id, event: None)


def test_half_a_signer_is_refused() -> None:
    with pytest.raises(UsageError, match="certificate and its key"):
        WorkerSettings.parse({"certificate": "a.pem"}, source="the options")


@pytest.mark.parametrize("form", ["png", "webp"])
def test_transparent_files_are_signed(tmp_path: Path, form: Any) -> None:
    files = signer_files(tmp_path)
    clear = tiny_pipeline(tmp_path, image_channels=4)
    encoder = ImageEncoder(Signer.from_files(files.certificate, files.key))
    events = draw(job(output=OutputSettings(format=form)), clear, encoder=encoder)
    image = next(event for event in events if isinstance(event, ImageDone))
    assert read_manifest(image.data).state == "valid"
    assert Image.open(io.BytesIO(image.data)).mode == "RGBA"


def test_checkers_see_transparent_images_on_white(tmp_path: Path) -> None:
    modes: list[str] = []

    class Watcher(Seer):
        def check_image(self, image: Image.Image) -> SafetyDecision:
            modes.append(image.mode)
            return super().check_image(image)

    clear = tiny_pipeline(tmp_path, image_channels=4)
    events = draw(job(), clear, encoder=ImageEncoder(checks=SafetyChecks([Watcher(9)])))
    assert isinstance(events[-1], Finished) and modes == ["RGB"] * 3
