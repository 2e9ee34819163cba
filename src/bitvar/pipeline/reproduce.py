"""Reproduction of an image from its record: finding its model and adapters, and checking that they are the same.

A record comes from a file that anyone may have edited, so it never causes a download: models and adapters from the hub
are taken from this machine's cache, or given by the caller.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bitvar import __version__
from bitvar.errors import UsageError
from bitvar.lora.file import adapter_digest, find_adapter
from bitvar.lora.used import UsedAdapter
from bitvar.pipeline.record import CURRENT, ImageRecord

if TYPE_CHECKING:
    from bitvar.pipeline.text_to_image import InfinityPipeline

_DTYPES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def recorded_model(record: ImageRecord, image: Path) -> Path | None:
    """The folder of the model that a record names; None for the embedded one.

    Args:
        record: Record of the image.
        image: File the record came from, for the error.

    Raises:
        UsageError: The record names a hub model that this machine's cache doesn't have.
    """
    if record.model_source is None:
        return None
    return _require_cached(record.model_source, f"The model of {image}", option="--model")


def recorded_dtype(record: ImageRecord) -> str:
    """The precision that a record names, as `InfinityPipeline.from_pretrained` takes it; "auto" for none."""
    return _DTYPES.get(record.dtype or "", "auto")


def recorded_optimizations(record: ImageRecord) -> tuple[str, ...]:
    """Return the optimizations to make the image with, as `InfinityPipeline.optimize` takes them.

    A record without optimizations is one of an image in fp32, whose bits the exact ones leave as they are, or of one
    made without any.
    """
    return record.optimizations or (("auto",) if record.dtype in (None, "float32") else ("off",))


def check_same_model(record: ImageRecord, pipeline: "InfinityPipeline") -> list[str]:
    """Refuse a pipeline of another model, and list the differences that may change details of the image.

    Returns:
        One sentence for each difference in version, precision, device or way of computing.

    Raises:
        UsageError: The record names another model.
    """
    outdated = record.format < CURRENT  # such an image can't be reproduced, so any model of the same name will do
    name = record.model is not None and record.model.partition("@")[0]
    same = record.model in (None, pipeline.model_name) or (outdated and name == pipeline.index.name)
    if not same:
        raise UsageError(
            f"{pipeline.model_name!r} is not the model that made the image.",
            f"the image was made with {record.model!r}",
            "name that model with --model, and its tokenizer with --tokenizer if it had another",
        )
    notes = []
    if outdated:
        notes.append("made with version 0.1.0, which drew other random numbers; the image differs")
    if not record.batch_invariant:
        notes.append("made in one batch with others (batch_invariant=False); details may differ")
    compared = {
        "model": (record.model, pipeline.model_name),
        "bitvar": (record.version, __version__),
        "precision": (record.dtype, str(pipeline.transformer.dtype).removeprefix("torch.")),
        "device": (record.device, pipeline.transformer.device.type),
    }
    for what, (then, now) in compared.items():
        if then is not None and then != now:
            notes.append(f"made with {what} {then!r}, and this is {now!r}; details may differ")
    then, now = (", ".join(names) or "none" for names in (record.optimizations, pipeline.recorded_optimizations))
    if then != now:
        notes.append(f"made with optimizations: {then}; now: {now}; details may differ")
    return notes


def load_recorded_adapters(
    pipeline: "InfinityPipeline", adapters: Sequence[UsedAdapter], sources: Sequence[str | Path] = ()
) -> None:
    """Load exactly the adapters that an image was made with, at their recorded weights.

    Args:
        pipeline: Pipeline that has no adapters yet.
        adapters: Adapters of the image's record.
        sources: Where to find them, in order; empty to take all of them from the hub's cache.

    Raises:
        UsageError: The sources aren't the recorded adapters, an adapter was fused, or the cache doesn't have one.
    """
    needed = "; ".join(f"{adapter.name} (sha256 {adapter.sha256})" for adapter in adapters) or "none"
    if any(adapter.fused for adapter in adapters):
        why = f"the command line can't fuse adapters: {needed}"
        raise UsageError("The image was made with fused adapters.", why, "make it again in Python")
    found = list(sources) or [path for adapter in adapters if (path := _cached_adapter(adapter)) is not None]
    if len(found) != len(adapters):
        why = f"the image was made with: {needed}"
        raise UsageError("The adapters aren't those of the image.", why, "name them with --lora, in order")
    for source, adapter in zip(found, adapters, strict=True):
        if (digest := adapter_digest(find_adapter(source))) != adapter.sha256:
            why = f"{source} is sha256 {digest}; the image was made with: {needed}"
            raise UsageError(f"This is not the adapter {adapter.name!r}.", why, "name them with --lora, in order")
    for source, adapter in zip(found, adapters, strict=True):
        pipeline.load_lora_weights(source, adapter_name=adapter.name)
    if adapters:
        pipeline.set_adapters([adapter.name for adapter in adapters], [adapter.weight for adapter in adapters])


def cached_snapshot(hub_id: str) -> Path | None:
    """The folder of a hub repository in this machine's cache, if it is there. The hub isn't contacted."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None


def _cached_adapter(adapter: UsedAdapter) -> Path | None:
    """The cached folder of a hub adapter; None for an adapter from a file, which only the user can name."""
    if adapter.source is None:
        return None
    return _require_cached(adapter.source, f"The adapter {adapter.name!r}", option="--lora")


def _require_cached(hub_id: str, what: str, *, option: str) -> Path:
    folder = cached_snapshot(hub_id)
    if folder is None:
        raise UsageError(
            f"{what} is not on this machine: {hub_id}.",
            "nothing is downloaded only because a file names it",
            f"if you trust it, add {option} {hub_id}",
        )
    return folder
