"""What happens to a job, in the order it happens: queued, started, scales and previews, images, and one last event.

Every job ends with exactly one of `Finished`, `Failed` and `Cancelled`.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Queued:
    """The job waits. It may be sent again when its position changes.

    Attributes:
        position: Number of jobs ahead of it.
    """

    position: int


@dataclass(frozen=True)
class Started:
    """The first scale of the job's first image begins."""


@dataclass(frozen=True)
class ScaleDone:
    """A scale of an image is finished.

    Attributes:
        image: Index of the image in the job.
        scale: Index of the scale, from 0.
        scales: Number of scales.
        grid: Rows and columns of the scale's tokens.
        tokens_done, tokens_total: Tokens of the image so far, and in the end.
    """

    image: int
    scale: int
    scales: int
    grid: tuple[int, int]
    tokens_done: int
    tokens_total: int


@dataclass(frozen=True)
class Preview:
    """The image as it is after a scale.

    Attributes:
        index: Number of the preview of this image, from 0.
        done: The scale that it shows.
        data: Encoded image.
        format: Format of `data`: png, webp or jpeg.
    """

    index: int
    done: ScaleDone
    data: bytes = field(repr=False)
    format: str = "png"


@dataclass(frozen=True)
class ImageDone:
    """A finished image.

    Attributes:
        image: Index of the image in the job.
        data: Encoded file, with the image's record inside.
        format: Format of `data`: png, webp or jpeg.
        width, height: Size of the file in pixels.
        native_width, native_height: Size at which the model generated it.
        seed: Seed of the image.
        record: The settings that the file contains, as `ImageRecord` dumps them.
    """

    image: int
    data: bytes = field(repr=False)
    format: str
    width: int
    height: int
    native_width: int
    native_height: int
    seed: int
    record: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """True token counts of a job.

    Attributes:
        text_tokens: Tokens that the text encoder read: every prompt of the request, once each.
        image_tokens: Tokens over all scales of all images.
        source_tokens: Tokens over all scales of the image that was edited; 0 without one.
    """

    text_tokens: int
    image_tokens: int
    source_tokens: int = 0


@dataclass(frozen=True)
class Finished:
    """All images are done.

    Attributes:
        usage: Token counts.
        warnings: Sentences for the user, such as words that the model was never taught.
        queued_seconds: Time before the first scale began.
        drawing_seconds: Time from then on.
    """

    usage: Usage
    warnings: tuple[str, ...]
    queued_seconds: float
    drawing_seconds: float


@dataclass(frozen=True)
class Failed:
    """The job ended without its images.

    Attributes:
        code: What kind of failure: `invalid_value`, `out_of_memory`, `moderation_blocked`, `worker_died`, `timeout`
            or `server_error`.
        message: A sentence for the user. It never contains the prompt.
        param: Field of the request that is at fault; None if there is none.
    """

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Cancelled:
    """The job was cancelled, by its id or because its client left.

    Attributes:
        scales: Number of scales that were drawn for it.
    """

    scales: int = 0


Event: TypeAlias = Queued | Started | ScaleDone | Preview | ImageDone | Finished | Failed | Cancelled
Last: TypeAlias = Finished | Failed | Cancelled
