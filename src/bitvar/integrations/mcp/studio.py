"""Drawing for an agent: requests with limits, one at a time, images kept by name, and files in one folder only.

This module knows neither the protocol nor its package.
"""

import base64
import binascii
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bitvar import __version__
from bitvar.editing.images import file_bytes, open_rgba
from bitvar.editing.masks import read_mask
from bitvar.editing.spec import EncodedImage
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline, ScaleEvent
from bitvar.pipeline.image_files import encode_image, save_images
from bitvar.pipeline.record import ImageRecord, find_record
from bitvar.pipeline.unknown_words import unknown_words
from bitvar.weights.describe import describe
from bitvar.weights.local_models import find_models

MAX_COUNT: Final = 4
"""Most images of one call."""

MAX_PROMPT: Final = 4000
"""Most characters of a prompt."""

MAX_IMAGE_BYTES: Final = 20 << 20
"""Most bytes of an image that is sent."""

_KEPT: Final = 32
"""Number of images that can be named in a later call."""

_KEPT_BYTES: Final = 256 << 20
_NAME: Final = re.compile(r"image-[1-9][0-9]{0,8}")
_DATA_URI: Final = re.compile(r"data:image/[a-z+.-]+;base64,")


class CancelledDrawing(Exception):  # noqa: N818  (no error: the agent asked for it)
    """The call was cancelled; nothing was kept or written."""


@dataclass(frozen=True)
class Drawn:
    """A finished image.

    Attributes:
        name: Name by which later calls may use it, such as "image-3".
        data: PNG file with its settings inside.
        settings: Those settings.
        path: File that it was written to; None if nothing was.
        never_taught: Words of the prompt that the model was never taught, as far as it lists its vocabulary.
    """

    name: str
    data: bytes
    settings: dict[str, Any]
    path: Path | None
    never_taught: tuple[str, ...] = ()


class Studio:
    """A model that draws one call at a time.

    Args:
        load: Function that loads the pipeline, called by the first call that draws.
        folder: Folder to write every image to, and to read images from; None for neither.
        cache: The hub's cache folder, for the list of models.
    """

    def __init__(self, load: Callable[[], InfinityPipeline], *, folder: Path | None, cache: Path) -> None:
        self._load = load
        self._folder = folder
        self._cache = cache
        self._pipeline: InfinityPipeline | None = None
        self._loading = threading.Lock()
        self._drawing = threading.Lock()
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._count = 0

    @property
    def pipeline(self) -> InfinityPipeline:
        """The pipeline, loaded on first use."""
        with self._loading:
            if self._pipeline is None:
                self._pipeline = self._load()
            return self._pipeline

    def generate(self, prompt: str, options: dict[str, Any], watch: Callable[[ScaleEvent], None]) -> list[Drawn]:
        """Draw images.

        Args:
            prompt: What to draw.
            options: Options of `InfinityPipeline.stream`; None stands for the default.
            watch: Function called after each scale. It may raise `CancelledDrawing`.

        Raises:
            UsageError: for a prompt or an option that the model can't use, or a limit of this server.
        """
        count = options.get("num_images_per_prompt") or 1
        if len(prompt) > MAX_PROMPT:
            raise UsageError(f"The prompt has {len(prompt):,} characters.", fix=f"use at most {MAX_PROMPT:,}")
        if not 1 <= count <= MAX_COUNT:
            raise UsageError(f"A call makes 1 to {MAX_COUNT} images, not {count}.", fix="call several times")
        given = {name: value for name, value in options.items() if value is not None}
        with self._drawing:
            last: ScaleEvent | None = None
            for last in self.pipeline.stream(prompt, **given):  # type: ignore[arg-type]
                watch(last)
            assert last is not None, "a schedule has at least one scale"
            return [replace(drawn, never_taught=self._never_taught(prompt)) for drawn in self._finish(last)]

    def _never_taught(self, prompt: str) -> tuple[str, ...]:
        vocabulary = self.pipeline.components.vocabulary
        return () if vocabulary is None else tuple(unknown_words([prompt], vocabulary))

    def edit(
        self,
        prompt: str,
        image: str,
        *,
        mask: str | None,
        strength: float | None,
        options: dict[str, Any],
        watch: Callable[[ScaleEvent], None],
    ) -> list[Drawn]:
        """Draw images from an image.

        Without a mask and a strength, an image that bitvar drew changes where the new prompt disagrees with its own;
        any other is redrawn from the middle of its scales on.

        Args:
            prompt: What the result shows.
            image: Name of an earlier image, base64 of a file, or the name of a file in the folder.
            mask: The same for a mask: white, or transparent, where the image may change.
            strength: Share of the scales that is drawn anew, from 0 to 1.
            options: As for `generate`.
            watch: As for `generate`.

        Raises:
            UsageError: as `generate`, or for an image that can't be used.
        """
        data = self._find(image, "image")
        spec: dict[str, Any] = {"image": EncodedImage.of(data), "strength": strength}
        record = find_record(data)
        if mask is not None:
            size = open_rgba(data, "the image").size
            spec["mask"] = read_mask(open_rgba(self._find(mask, "mask"), "the mask"), size, convention="auto")
        elif strength is None and record is not None and record.prompt.strip() and not record.grid:
            spec |= {"method": "localized", "source_prompt": record.prompt}
        elif strength is None:
            spec["strength"] = 0.5
        return self.generate(prompt, {**options, "edit": spec}, watch)

    def describe(self) -> dict[str, Any]:
        """Describe the model: its sizes, its default settings and what it knows."""
        pipe = self.pipeline
        vocabulary = pipe.components.vocabulary
        known: dict[str, Any] = {}
        if vocabulary is not None:
            known = {
                "concepts": [concept.name for concept in vocabulary.concepts],
                "styles": list(vocabulary.styles),
                "colours": list(vocabulary.colours),
                "backgrounds": list(vocabulary.backgrounds),
                "counts": list(vocabulary.counts),
            }
        return {
            "model": pipe.model_name,
            "sizes": [f"{width}x{height}" for width, height in pipe.sizes],
            "defaults": pipe.index.defaults.complete().__dict__,
            "device": pipe.device.type,
            "precision": str(pipe.dtype).removeprefix("torch."),
            "most_images_per_call": MAX_COUNT,
            "images_are_written_to": None if self._folder is None else str(self._folder),
            "knows": known or "general images; the model has no list",
        }

    def models(self) -> list[dict[str, Any]]:
        """List the models on this machine."""
        found = []
        for model in find_models([], self._cache):
            row = {"name": model.name, "place": model.place, "complete": not model.missing}
            try:
                described = describe(model.folder)
            except ValueError as error:
                found.append({**row, "problem": str(error).splitlines()[0]})
                continue
            found.append({**row, "kind": described.kind, "sizes": [f"{w}x{h}" for w, h in described.sizes]})
        return found

    def _finish(self, event: ScaleEvent) -> list[Drawn]:
        images = event.preview()
        records = [ImageRecord.of(metadata, version=__version__) for metadata in event.metadata]
        paths: list[Path | None] = [None] * len(images)
        if self._folder is not None:
            paths = [*save_images(images, records, f"{self._folder}/")]
        return [self._keep(*drawn) for drawn in zip(images, records, paths, strict=True)]

    def _keep(self, image: Image.Image, record: ImageRecord, path: Path | None) -> Drawn:
        self._count += 1
        name, data = f"image-{self._count}", encode_image(image, record, fast=True)
        self._images[name] = data
        while len(self._images) > 1 and (
            len(self._images) > _KEPT or sum(map(len, self._images.values())) > _KEPT_BYTES
        ):
            self._images.popitem(last=False)
        return Drawn(name, data, record.model_dump(mode="json", exclude_defaults=True), path)

    def _find(self, text: str, what: str) -> bytes:
        """Find the bytes of an image: one of this session, a file of the folder, or base64."""
        if _NAME.fullmatch(text):
            if text not in self._images:
                why = f"the last {_KEPT} images of this session are kept"
                raise UsageError(f"There is no {text}.", why, "draw it again")
            return self._images[text]
        if self._folder is not None and len(text) < 4096 and Path(text).suffix:
            path = (self._folder / text).resolve()
            if path.is_relative_to(self._folder.resolve()) and path.is_file():
                return file_bytes(path)
            raise UsageError(f"There is no {what} {text[:100]!r} in {self._folder}.", fix="name a file of that folder")
        encoded = _DATA_URI.sub("", text, count=1)
        if len(encoded) > MAX_IMAGE_BYTES * 4 // 3 + 4:
            raise UsageError(f"The {what} is larger than {MAX_IMAGE_BYTES >> 20} MiB.", fix="send a smaller one")
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            why = "it is neither an image of this session, such as image-1, nor base64"
            raise UsageError(f"Can't use the {what} {text[:40]!r}.", why, "send one of them") from None
