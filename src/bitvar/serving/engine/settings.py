"""Settings of the worker: which model, where, and how much at once."""

from typing import Annotated, Final

from pydantic import Field, model_validator

from bitvar.config import Config

ADAPTER_NAME: Final = r"^[A-Za-z0-9_-]{1,200}$"
"""Pattern of the name by which requests choose an adapter."""


class NamedAdapter(Config):
    """An adapter that requests may choose by name.

    Attributes:
        name: Name that requests use.
        source: A file, a folder or a hub id.
    """

    name: str = Field(pattern=ADAPTER_NAME)
    source: str


class ClassifierSettings(Config):
    """A classifier of images, some of whose labels block.

    Attributes:
        folder: Folder of the classifier.
        blocked: Probability from which each label blocks, by label.
    """

    folder: str
    blocked: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1)


class WorkerSettings(Config):
    """Everything that a worker needs to serve a model.

    Attributes:
        model: Name, folder or hub id; None for the embedded model.
        revision: Revision of a hub id.
        tokenizer: Tokenizer with a fine-tuned decoder, in place of the model's own.
        dtype, device: As for `InfinityPipeline.from_pretrained`.
        fast: Names of optimizations and words that choose them, as for `InfinityPipeline.optimize`.
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
        watermark: File of the key that marks every image; None marks none.
        certificate, signing_key: Files of the certificate and the key that sign every image; None signs none.
        blocklists: Files of phrases that prompts may not contain.
        classifier: Classifier that may block images.
    """

    model: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    fast: tuple[str, ...] = Field(default=("auto",), min_length=1, max_length=64)
    threads: int | None = Field(default=None, ge=1, le=1024)
    served_name: str | None = Field(default=None, min_length=1, max_length=200)
    adapters: tuple[NamedAdapter, ...] = ()
    batch_invariant: bool = True
    max_batch: Annotated[int, Field(ge=1, le=64)] = 8
    max_active: Annotated[int, Field(ge=1, le=256)] = 8
    memory_budget: int | None = Field(default=None, ge=1)
    warm_sizes: tuple[tuple[int, int], ...] = ()
    watermark: str | None = None
    certificate: str | None = None
    signing_key: str | None = None
    blocklists: tuple[str, ...] = ()
    classifier: ClassifierSettings | None = None

    @model_validator(mode="after")
    def _signs_with_both(self) -> "WorkerSettings":
        if (self.certificate is None) != (self.signing_key is None):
            raise ValueError("signing takes a certificate and its key")
        return self
