"""The model at work: takes jobs, draws them scale by scale in the scheduler's order, and emits what happens.

It runs the loop in the thread that calls `run`, and encodes files in another, so that the model doesn't wait for them.
"""

import logging
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import torch

from bitvar.errors import ComputationError, UsageError, WeightsError
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.results import ScaleEvent
from bitvar.pipeline.text_to_image import InfinityPipeline
from bitvar.safety.checks import SafetyChecks
from bitvar.sampling.watermark import Watermark
from bitvar.serving.engine.costs import ScaleCosts, cost_key, preview_scales
from bitvar.serving.engine.encoding import EncodingThread, ImageEncoder, Outbox
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.memory import image_bytes
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.engine.prompts import PromptReader, texts_of
from bitvar.serving.engine.scheduler import ImageWork, JobWork, Limits, Scheduler, StartPass

_LOG: Final = logging.getLogger(__name__)

_BLOCKED: Final = Failed("moderation_blocked", "The prompt was blocked by the safety check of this server.", "prompt")

Emit = Callable[[str, Event], None]
"""Takes a job's id and what happened to it. Called from one thread at a time, in order."""


@dataclass(eq=False)
class _RunningJob:
    """A job that is neither done nor cancelled.

    Attributes:
        outbox: Where its events go; it has the job as submitted.
        request: Its request, with prompts cut to what the model reads.
        size: Width and height at which the model draws.
        lengths: Number of tokens of every scale.
        shown: Scales after which previews are sent.
        text_tokens: Tokens that the text encoder reads.
        warnings: Sentences for the user.
        arrived: When it was submitted.
        started: When its first scale began; None before.
        scales: Number of scales that were drawn for it.
    """

    outbox: Outbox
    request: GenerationRequest
    size: tuple[int, int]
    lengths: tuple[int, ...]
    shown: tuple[int, ...]
    text_tokens: int
    warnings: tuple[str, ...]
    arrived: float
    started: float | None = None
    scales: int = 0


@dataclass(eq=False)
class _Pass:
    """Images that are drawn together, one of them where each is computed by itself.

    Attributes:
        images: The images, a row each.
        scales: The loop that draws them.
        key: Key of their measured costs.
        lengths: Number of tokens of every scale.
        done: Number of scales that are finished.
    """

    images: tuple[ImageWork, ...]
    scales: Iterator[ScaleEvent]
    key: object
    lengths: tuple[int, ...]
    done: int = 0


@dataclass
class _Command:
    """What another thread asked for: a job to draw, the id of one to cancel, or the end."""

    submit: Job | None = None
    cancel: str | None = None
    arrived: float = field(default_factory=time.monotonic)


class ModelRunner:
    """Draws jobs with one model.

    Args:
        pipeline: Model to draw with. The runner switches its adapters, so nothing else may use it meanwhile.
        card: Description of the model, with its sizes and memory budget.
        emit: Receiver of events.
        encoder: How finished images become files.
        costs: Seconds of scales that were measured before, as while warming up.
        watermark: Watermark that every image carries; None marks none.
        checks: Decides which prompts are drawn; None allows all.
        batch_invariant: Whether each image is computed by itself.
        max_batch: Most images of a pass where they aren't.
        max_active: Most images between their first and last scale at a time.
    """

    def __init__(
        self,
        pipeline: InfinityPipeline,
        card: ModelCard,
        emit: Emit,
        *,
        encoder: ImageEncoder | None = None,
        costs: ScaleCosts | None = None,
        watermark: Watermark | None = None,
        checks: SafetyChecks | None = None,
        batch_invariant: bool = True,
        max_batch: int = 8,
        max_active: int = 8,
    ) -> None:
        self._pipeline = pipeline
        self._card = card
        self._emit = emit
        self._invariant = batch_invariant
        self._watermark = watermark
        self._checks = checks or SafetyChecks()
        self._reader = PromptReader(pipeline, card.max_text_tokens)
        self._costs = costs or ScaleCosts()
        limits = Limits(card.memory_budget, max_active, 1 if batch_invariant else max_batch)
        self._scheduler = Scheduler(limits, self._predict)
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._jobs: dict[str, _RunningJob] = {}
        self._passes: dict[ImageWork, _Pass] = {}
        self._adapters: object = ()
        self._files = EncodingThread(encoder or ImageEncoder(), emit, self.cancel)

    def submit(self, job: Job) -> None:
        """Add a job. It may be called from any thread."""
        self._commands.put(_Command(submit=job))

    def cancel(self, job_id: str) -> None:
        """Cancel a job at the next scale boundary. An unknown id has no effect."""
        self._commands.put(_Command(cancel=job_id))

    def stop(self) -> None:
        """End `run` at the next scale boundary, whatever is being drawn."""
        self._commands.put(_Command())

    def run(self) -> None:
        """Draw jobs until `stop`. Errors of a job end that job."""
        try:
            while self._obey():
                choice = self._scheduler.choose(time.monotonic())
                if choice is None:
                    continue
                images = choice.images if isinstance(choice, StartPass) else (choice.image,)
                try:
                    if isinstance(choice, StartPass):
                        self._start_pass(images)
                    self._advance(self._passes[images[0]])
                except Exception as error:  # whatever it is, the next job must be drawn
                    self._fail(images, error)
        finally:
            for drawn in {id(one): one for one in self._passes.values()}.values():
                _close(drawn)
            self._files.close()

    def _obey(self) -> bool:
        """Carry out what other threads asked for, waiting for it when there is nothing to draw. False ends the loop."""
        while True:
            try:
                command = self._commands.get(block=not self._jobs)
            except queue.Empty:
                return True
            if command.submit is not None:
                self._accept(command.submit, command.arrived)
            elif command.cancel is not None:
                self._cancel(command.cancel)
            else:
                return False

    def _accept(self, job: Job, arrived: float) -> None:
        outbox = Outbox(job)
        if not all(self._checks.check_prompt(text).allowed for text in texts_of(job.request)):
            self._files.emit(outbox, _BLOCKED)
            return
        try:
            running = self._prepare(outbox, arrived)
            memory = image_bytes(job, self._card.size_of(*running.size), self._card)
        except (UsageError, WeightsError) as error:
            self._files.emit(outbox, Failed("invalid_value", sentence(error), "prompt"))
            return
        except Exception as error:  # whatever it is, the next job must be drawn
            self._files.emit(outbox, describe(error))
            return
        own = job.id if running.request.edit or running.request.mix or running.request.mixed_seed else None
        settings = (running.request.params, running.request.quality, running.request.background)
        group = (running.size, settings, job.adapters, own)
        images = [ImageWork(job.id, index, group, job.adapters, memory) for index in range(running.request.num_images)]
        self._jobs[job.id] = running
        self._scheduler.add(JobWork(job.id, arrived, images))

    def _prepare(self, outbox: Outbox, arrived: float) -> _RunningJob:
        job = outbox.job
        read = self._reader.read(job.request)
        request = read.request.model_copy(update={"batch_invariant": self._invariant})
        schedule = self._pipeline.schedule_for(request.height, request.width)
        lengths = schedule.lengths
        shown = preview_scales(lengths, job.previews.count)
        return _RunningJob(outbox, request, self._size_of(request), lengths, shown, read.tokens, read.warnings, arrived)

    def _size_of(self, request: GenerationRequest) -> tuple[int, int]:
        schedule = self._pipeline.schedule_for(request.height, request.width)
        return schedule[-1][1] * self._pipeline.stride, schedule[-1][0] * self._pipeline.stride

    def _cancel(self, job_id: str) -> None:
        running = self._jobs.get(job_id)
        if running is not None:
            self._end(job_id, Cancelled(running.scales))

    def _end(self, job_id: str, last: Cancelled | Failed) -> None:
        """End a job that won't be drawn to its end."""
        running = self._jobs.pop(job_id, None)
        if running is None:
            return
        self._scheduler.remove(job_id)
        self._drop_passes(job_id)
        self._files.drop(running.outbox, last)

    def _drop_passes(self, job_id: str) -> None:
        """Close the passes of which no image is wanted any more."""
        for image, drawn in list(self._passes.items()):
            if image.job != job_id:
                continue
            del self._passes[image]
            if not any(other in self._passes for other in drawn.images):
                _close(drawn)

    def _start_pass(self, images: tuple[ImageWork, ...]) -> None:
        """Begin a pass of these images, whose jobs ask for the same size, settings and adapters."""
        self._apply_adapters(images[0])
        jobs = [self._jobs[image.job] for image in images]
        for running in jobs:
            if running.started is None:
                running.started = time.monotonic()
                self._files.emit(running.outbox, Started())
        first = jobs[0].request
        seeds = tuple(running.request.seeds()[image.index] for running, image in zip(jobs, images, strict=True))
        request = first.model_copy(
            update={
                "prompts": tuple(running.request.prompts[0] for running in jobs),
                "negative_prompt": tuple(running.request.negatives()[0] for running in jobs),
                "num_images_per_prompt": 1,
                "seed": seeds,
            }
        )
        key = cost_key(jobs[0].size, len(images), request)
        drawn = _Pass(images, self._pipeline.stream_request(request, watermark=self._watermark), key, jobs[0].lengths)
        for image in images:
            self._passes[image] = drawn

    def _apply_adapters(self, image: ImageWork) -> None:
        chosen = self._jobs[image.job].outbox.job.adapters
        if chosen == self._adapters or not self._card.adapters:
            return
        if chosen:
            self._pipeline.set_adapters([one.name for one in chosen], [one.scale for one in chosen])
            self._pipeline.enable_lora()
        else:
            self._pipeline.disable_lora()
        self._adapters = chosen

    def _advance(self, drawn: _Pass) -> None:
        """Draw one scale of a pass."""
        began, scale = time.perf_counter(), drawn.done
        event = next(drawn.scales)
        drawn.done += 1
        last = drawn.done == len(drawn.lengths)
        live = [(row, image) for row, image in enumerate(drawn.images) if image in self._passes]
        if last or any(scale in self._jobs[image.job].shown for _, image in live):
            event.preview()  # decodes here, in the thread that computes
        seconds = time.perf_counter() - began
        self._costs.record(drawn.key, scale, drawn.lengths[scale], seconds)
        if last:
            _close(drawn)
        for row, image in live:
            image.done = drawn.done
            self._report(image, event, row, last=last)

    def _report(self, image: ImageWork, event: ScaleEvent, row: int, *, last: bool) -> None:
        running = self._jobs[image.job]
        running.scales += 1
        done = ScaleDone(image.index, event.index, event.total, event.grid, event.tokens_done, event.tokens_total)
        self._files.emit(running.outbox, done)
        if event.index in running.shown:
            self._files.preview(running.outbox, done, running.shown.index(event.index), event.preview()[row])
        if not last:
            return
        del self._passes[image]
        self._files.image(running.outbox, image.index, event.preview()[row], event.metadata[row])
        if self._scheduler.finish(image):
            self._finish(running)

    def _finish(self, running: _RunningJob) -> None:
        del self._jobs[running.outbox.job.id]
        now, started = time.monotonic(), running.started
        assert started is not None
        tokens = sum(running.lengths)
        read = tokens if running.request.edit is not None else 0
        usage = Usage(running.text_tokens, tokens * running.request.num_images, read)
        done = Finished(usage, running.warnings, started - running.arrived, now - started)
        self._files.emit(running.outbox, done)

    def _predict(self, image: ImageWork) -> float:
        """Predict the seconds that an image takes by itself."""
        running = self._jobs[image.job]
        return self._costs.image(cost_key(running.size, 1, running.request), running.lengths)

    def _fail(self, images: tuple[ImageWork, ...], error: Exception) -> None:
        """End every job of a pass that failed, or that could not be started."""
        drawn = self._passes.get(images[0])
        if drawn is not None:
            _close(drawn)
        failure = describe(error)
        for job_id in {image.job for image in (drawn.images if drawn else images)}:
            self._end(job_id, failure)
        if failure.code == "out_of_memory" and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _close(drawn: _Pass) -> None:
    close = getattr(drawn.scales, "close", None)
    if close is not None:
        close()


def describe(error: Exception) -> Failed:
    """Turn an error into what a client is told. Unexpected ones are logged, and the client learns only that."""
    if isinstance(error, UsageError):
        return Failed("invalid_value", sentence(error))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower():
        return Failed("out_of_memory", "The model ran out of memory. Ask for a smaller size or fewer images.")
    if isinstance(error, ComputationError | WeightsError):
        return Failed("server_error", sentence(error))
    _LOG.error("a job failed unexpectedly", exc_info=error)
    return Failed("server_error", "The image could not be drawn, because of a fault in the server.")


def sentence(error: Exception) -> str:
    """Join the lines of an error to one line: what happened, why, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = [line.removeprefix("why:").strip() for line in lines if line.startswith("why:")]
    fix = [line.removeprefix("do:").strip() for line in lines if line.startswith("do:")]
    what = lines[0] if lines else "Failed."
    more = "; ".join([*why, *fix])
    return f"{what} ({more})" if more else what
