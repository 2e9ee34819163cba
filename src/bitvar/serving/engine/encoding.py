"""Finished images and previews become files here, in a thread of their own, and leave in order with other events."""

import io
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image, ImageOps

from bitvar import __version__
from bitvar.imaging.alpha import flatten
from bitvar.pipeline.image_files import encode_image, resize_as_recorded
from bitvar.pipeline.record import ImageRecord
from bitvar.pipeline.request import Background
from bitvar.provenance.manifests import Signer
from bitvar.safety.checks import SafetyChecks
from bitvar.serving.engine.events import Cancelled, Event, Failed, Finished, ImageDone, Preview, ScaleDone
from bitvar.serving.engine.job import Job, OutputSettings

_LOG: Final = logging.getLogger(__name__)

PREVIEW_SIDE: Final = 512
"""Longer side of a preview in pixels where a request names none."""

_PENDING: Final = 32
"""Most events that wait for encoding; the model then waits."""

_PIL_NAMES: Final = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
_FAULT: Final = Failed("server_error", "The image could not be encoded, because of a fault in the server.")
_BLOCKED: Final = Failed("moderation_blocked", "The image was blocked by the safety check of this server.")


class BlockedError(Exception):
    """The safety check blocked an image."""


class ImageEncoder:
    """Writes images as files, with their settings inside.

    Args:
        signer: Signs every finished file; None signs none. Signed bytes differ from call to call.
        checks: Decides which images and previews anybody may see; None allows all.
    """

    def __init__(self, signer: Signer | None = None, checks: SafetyChecks | None = None) -> None:
        self._signer = signer
        self._checks = checks or SafetyChecks()

    def image(self, image: Image.Image, metadata: dict[str, Any], output: OutputSettings) -> tuple[bytes, ImageRecord]:
        """Write a finished image.

        Args:
            image: Image as the model generated it.
            metadata: Its settings, as the pipeline gives them.
            output: Form of the file.

        Raises:
            BlockedError: The safety check blocks it.
        """
        self._check(image)
        size = {}
        if output.size is not None:
            size = {"requested_width": output.size[0], "requested_height": output.size[1], "exact_size": True}
        record = ImageRecord.of({**metadata, **size}, version=__version__)
        resized = resize_as_recorded(_on_background(image, record.background), record)
        data = encode_image(resized, record, _PIL_NAMES[output.format], quality=output.quality, fast=True)
        return (data if self._signer is None else self._signer.sign(data, output.format, record)), record

    def preview(
        self, image: Image.Image, output: OutputSettings, side: int | None, background: Background = "auto"
    ) -> bytes:
        """Write a preview in the shape of the finished image.

        Args:
            image: Image so far.
            output: Form of the finished file.
            side: Longer side in pixels; None for the finished image's, but at most `PREVIEW_SIDE`.
            background: Background of the request.

        Raises:
            BlockedError: The safety check blocks it.
        """
        self._check(image)
        image = _on_background(image, background)
        width, height = output.size or image.size
        longer = side or min(max(width, height), PREVIEW_SIDE)
        factor = longer / max(width, height)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        if image.size != size:
            image = ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
        file = io.BytesIO()
        options: dict[str, Any] = {"compress_level": 1} if output.format == "png" else {"quality": 80}
        if output.format == "jpeg":
            image = flatten(image)
        image.save(file, format=_PIL_NAMES[output.format], **options)
        return file.getvalue()

    def _check(self, image: Image.Image) -> None:
        if not self._checks.check_image(image).allowed:
            raise BlockedError


def _on_background(image: Image.Image, background: Background) -> Image.Image:
    """Lay an image on white if the background is opaque, as one that keeps the transparency of another."""
    return flatten(image) if background == "opaque" and image.mode == "RGBA" else image


@dataclass(eq=False)
class Outbox:
    """Where the events of one job go.

    Attributes:
        job: Job that the events belong to.
        dropped: Whether to leave out images and previews, since nobody wants them any more.
        ended: Whether the last event has been emitted; only the encoding thread sets it.
    """

    job: Job
    dropped: bool = False
    ended: bool = False


class EncodingThread:
    """Emits events in the order given, encoding images on the way. After the last event of a job it emits none.

    Args:
        encoder: How images become files.
        emit: Receiver of events; called from the thread only.
        fail: Told the id of a job of which an image couldn't be encoded, so that no more is drawn for it.
    """

    def __init__(self, encoder: ImageEncoder, emit: Callable[[str, Event], None], fail: Callable[[str], None]) -> None:
        self._encoder = encoder
        self._emit = emit
        self._fail = fail
        self._work: queue.Queue[tuple[Outbox, Event | Callable[[], Event]] | None] = queue.Queue(_PENDING)
        self._thread = threading.Thread(target=self._run, name="encoding", daemon=True)
        self._thread.start()

    def emit(self, outbox: Outbox, event: Event) -> None:
        """Emit an event after those before it."""
        self._work.put((outbox, event))

    def preview(self, outbox: Outbox, done: ScaleDone, index: int, image: Image.Image) -> None:
        """Encode and emit a preview.

        Args:
            outbox: Where it goes.
            done: Scale that it shows.
            index: Number of the preview of this image, from 0.
            image: Image so far.
        """
        job = outbox.job
        background = job.request.background

        def encode() -> Preview:
            data = self._encoder.preview(image, job.output, job.previews.size, background)
            return Preview(index, done, data, job.output.format)

        self._work.put((outbox, encode))

    def image(self, outbox: Outbox, index: int, image: Image.Image, metadata: dict[str, Any]) -> None:
        """Encode and emit a finished image.

        Args:
            outbox: Where it goes.
            index: Index of the image in the job.
            image: Image as the model generated it.
            metadata: Its settings, as the pipeline gives them.
        """
        output = outbox.job.output

        def encode() -> ImageDone:
            data, record = self._encoder.image(image, metadata, output)
            return ImageDone(
                image=index,
                data=data,
                format=output.format,
                width=record.file_size[0],
                height=record.file_size[1],
                native_width=record.width,
                native_height=record.height,
                seed=record.seed,
                record=record.model_dump(mode="json", exclude_defaults=True),
            )

        self._work.put((outbox, encode))

    def drop(self, outbox: Outbox, last: Event) -> None:
        """Leave out what has yet to be encoded of a job, and emit its last event."""
        outbox.dropped = True
        self._work.put((outbox, last))

    def close(self) -> None:
        """Encode and emit what waits, and end the thread."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._work.get()) is not None:
            outbox, entered = entry
            if outbox.ended or (outbox.dropped and callable(entered)):
                continue
            try:
                event = entered() if callable(entered) else entered
            except BlockedError:
                event = _BLOCKED
                self._fail(outbox.job.id)
            except Exception as error:
                _LOG.error("an image could not be encoded", exc_info=error)
                event = _FAULT
                self._fail(outbox.job.id)
            outbox.ended = isinstance(event, Finished | Failed | Cancelled)
            self._emit(outbox.job.id, event)
