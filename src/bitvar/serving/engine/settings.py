"""Settings of the worker: which model, where, and how much at once."""

from typing import Annotated

from pydantic import Field

from bitvar.config import Config


class NamedAdapter(Config):
    """An adapter that requests may choose by name.

    Attributes:
        name: Name that requests use.
        source: A file, a folder or a hub id.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")
    source: str


class WorkerSettings(Config):
    """Everything that a worker needs to serve a model.

    Attributes:
        model: Name, folder or hub id; None for the embedded model.
        revision: Revision of a hub id.
        tokenizer: Tokenizer with a fine-tuned decoder, in place of the model's own.
        dtype, device: As for `InfinityPipeline.from_pretrained`.
        threads: Threads that compute on the CPU; None leaves it to PyTorch. Fewer than there are cores pay off where
            other programs are busy.
        served_name: Name that clients send; None for the model's own.
        adapters: Adapters to load.
        batch_invariant: Whether to compute each image by itself, so that an image is byte for byte the same whatever
            else is being drawn. False lets images of one size and settings share a pass, `max_batch` at most.
        max_batch: Most images of a pass.
        max_active: Most images that are between their first and last scale at a time.
        memory_budget: Memory in bytes for images that are being drawn; None asks the device.
        warm_sizes: Width and height of images to draw before the worker is ready; the model's default size is added.
    """

    model: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    served_name: str | None = Field(default=None, max_length=200)
    adapters: tuple[NamedAdapter, ...] = ()
    batch_invariant: bool = True
    max_batch: Annotated[int, Field(ge=1, le=64)] = 8
    max_active: Annotated[int, Field(ge=1, le=256)] = 8
    memory_budget: int | None = Field(default=None, ge=1)
    warm_sizes: tuple[tuple[int, int], ...] = ()
