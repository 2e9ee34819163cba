"""A job: what the front process asks a worker to draw. It has no tensors and crosses processes as JSON."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from bitvar.config import Config
from bitvar.pipeline.request import GenerationRequest

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
Side: TypeAlias = Annotated[int, Field(ge=1, le=16384)]


class OutputSettings(Config):
    """How finished images are written.

    Attributes:
        format: Format of the file.
        quality: Quality of JPEG and WebP from 0 to 100; 100 is lossless for WebP. PNG ignores it.
        size: Width and height of the file in pixels: the image is resized to cover them and cropped. None keeps the
            size that the model generates.
    """

    format: ImageFormat = "png"
    quality: int = Field(default=100, ge=0, le=100)
    size: tuple[Side, Side] | None = None


class PreviewSettings(Config):
    """Which scales are shown before the image is finished.

    Attributes:
        count: Number of previews, spread evenly over the time that drawing takes; 0 for none. An image has at most one
            a scale, the last scale apart, so a client may get fewer.
        size: Longer side of a preview in pixels; None for the image's own.
    """

    count: int = Field(default=0, ge=0, le=64)
    size: Side | None = None


class AdapterChoice(Config):
    """An adapter of the server, with the weight to apply it at."""

    name: str = Field(min_length=1, max_length=200)
    scale: float = Field(default=1.0, ge=-100, le=100)


class Job(Config):
    """A request, the form of its result, and its id.

    Attributes:
        id: Id that events, logs and cancelling name.
        request: Prompt and settings, with a seed for each image.
        output: Form of the finished images.
        previews: Previews to send.
        adapters: Adapters to apply, in order.
        source_pixels: Number of pixels of an image that is worked on at its own size, as by an exact edit; else 0.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")
    request: GenerationRequest
    output: OutputSettings = OutputSettings()
    previews: PreviewSettings = PreviewSettings()
    adapters: Annotated[tuple[AdapterChoice, ...], Field(max_length=8)] = ()
    source_pixels: int = Field(default=0, ge=0)
