"""Work items: what to draw and where it goes, and the address by which an image is known.

An address is a digest of everything that decides an image's bytes: prompt, seed, settings, model, precision and kind
of device. Two items of one address are the same image. This module reads and writes no files.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from bitvar.errors import UsageError
from bitvar.files import is_file_name
from bitvar.pipeline.file_names import MAX_FILE_BYTES
from bitvar.pipeline.image_files import check_background, format_of
from bitvar.pipeline.request import GenerationRequest

if TYPE_CHECKING:
    from bitvar.pipeline import Control, InfinityPipeline
    from bitvar.sampling.watermark import Watermark

SETTINGS: Final = "run.json"
"""Name of the file with the settings of a folder (`bulk.settings`)."""

_OWN_FILES: Final = (SETTINGS, "images.jsonl", "rewrites.jsonl")
_BIDIRECTIONAL: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_NO_SETTING: Final = ("version", "model_source")
"""Values of a record that say where an image comes from, and don't decide its bytes."""


@dataclass(frozen=True)
class WorkItem:
    """One image: what to draw and where it goes. It holds no tensors, and can cross processes.

    Attributes:
        file: Path relative to the output folder, with slashes, in any layout: "00000/samples/0000.png". The suffix
            names the format.
        request: Request for one image of one prompt. Its seed is ignored.
        seed: Seed of the image, from 0 to 2^63 - 1.
        note: JSON values that are copied into the image's line of the ledger, such as a prompt's id.
        record: Further values of the image's record, which the pipeline doesn't know: `requested_width`,
            `requested_height`, `exact_size`, `enlarge`, `original_prompt`, `model_source`.
    """

    file: str
    request: GenerationRequest
    seed: int
    note: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """Text that is drawn."""
        return self.request.prompts[0]

    def dump(self) -> str:
        """Write the item as the JSON text that `parse` reads."""
        values = {"file": self.file, "seed": self.seed, "note": dict(self.note), "record": dict(self.record)}
        request = self.request.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({**values, "request": request})

    @classmethod
    def parse(cls, text: str) -> "WorkItem":
        """Read the text that `dump` writes."""
        values = json.loads(text)
        return cls(**{**values, "request": GenerationRequest.model_validate(values["request"])})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the request as JSON values: those that aren't left to the model, without prompt and seed."""
        values = self.request.model_dump(mode="json", exclude_defaults=True, exclude={"prompts", "seed"})
        if isinstance(negatives := values.get("negative_prompt"), list):
            values["negative_prompt"] = negatives[0]
        return values


@dataclass(frozen=True)
class DrawingHooks:
    """What is drawn with, besides the model and the requests: all images of a run share it.

    Attributes:
        watermark: Watermark to draw the bits with.
        control: Control that the images follow, through the pipeline's control adapter.
    """

    watermark: "Watermark | None" = None
    control: "Control | None" = None


def drawn_by(pipeline: "InfinityPipeline", hooks: DrawingHooks) -> dict[str, Any]:
    """Describe, as JSON values, everything besides the items that decides the images' bytes."""
    control = hooks.control
    followed = control and {
        "adapter": pipeline.control_sha256,
        "image": hashlib.sha256(control.image.tobytes()).hexdigest(),
        "form": [control.image.mode, *control.image.size],
        "strength": control.strength,
        "kind": control.kind,
    }
    return {
        "model": pipeline.components.digest or pipeline.model_name,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "optimizations": pipeline.recorded_optimizations,
        "lora": [adapter.model_dump(mode="json") for adapter in pipeline.used_adapters],
        "watermark": hooks.watermark and hooks.watermark.key_id,
        "control": followed,
    }


def address_of(item: WorkItem, drawing: Mapping[str, Any]) -> str:
    """Compute the address of an item's image: 64 hexadecimal digits.

    Args:
        item: Work item. Its file and its note have no influence.
        drawing: What `drawn_by` returns.
    """
    record = {name: value for name, value in item.record.items() if name not in _NO_SETTING}
    values = {"prompt": item.prompt, "seed": item.seed, "settings": item.settings, "record": record, **drawing}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_items(items: Sequence[WorkItem]) -> None:
    """Refuse a work list that can't be drawn into a folder.

    Raises:
        UsageError: Two items name one file, or a file and a folder; a name leaves the folder or is no image's; a text
            can't be written as UTF-8; or a request is for several images.
    """
    seen: set[str] = set()
    for item in items:
        if len(item.request.prompts) != 1 or item.request.num_images_per_prompt != 1:
            raise UsageError(f"The work item of {item.file} is for several images.", fix="make one item per image")
        _check_texts(item)
        _check_file(item.file)
        check_background(item.request.background, format_of(Path(item.file)))
        if item.file.casefold() in seen:
            why = "each image has a file of its own, and some file systems ignore case"
            raise UsageError(f"Two images would go to {item.file}.", why, "give them different names")
        seen.add(item.file.casefold())
    for item in items:
        for parent in PurePosixPath(item.file).parents[:-1]:
            if str(parent).casefold() in seen:
                why = f"another image has the name {parent}, and a name is a file or a folder"
                raise UsageError(f"Can't write to {item.file}.", why, "give them different names")


def _check_texts(item: WorkItem) -> None:
    texts = [item.file, *item.request.prompts, item.request.negative_prompt, dict(item.note), dict(item.record)]
    try:
        json.dumps(texts, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        why = "it has half of a surrogate pair, which UTF-8 can't hold"
        raise UsageError(f"A text of the image {item.file!a} can't be written.", why, "correct the text") from None


def _check_file(file: str) -> None:
    path = PurePosixPath(file)
    fix = "give a relative path such as cats/0001.png"
    if not is_file_name(file) or path.is_absolute() or "\\" in file or str(path) != file or ".." in path.parts:
        raise UsageError(f"Can't write to {file!r}.", "it is no plain path inside the output folder", fix)
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") or sign in _BIDIRECTIONAL for sign in file):
        why = "it has a line break, another control character or a mark of writing direction"
        raise UsageError(f"Can't write to {file!a}.", why, fix)
    if path.parts[0].casefold() in _OWN_FILES:
        raise UsageError(f"Can't write to {file!r}.", f"{path.parts[0]} is a file of the run itself", fix)
    if path.parts[0].startswith("."):
        raise UsageError(f"Can't write to {file!r}.", "names with a dot in front are kept for the run itself", fix)
    if any(len(part.encode()) > MAX_FILE_BYTES for part in path.parts):
        raise UsageError(f"Can't write to {file!r}.", f"file systems allow {MAX_FILE_BYTES} bytes a name", fix)
