"""`--from FILE`: going on from the settings inside an image, without fetching anything on a file's word."""

from pathlib import Path
from typing import TYPE_CHECKING

from bitvar import __version__
from bitvar.cli.echo import say
from bitvar.errors import UsageError
from bitvar.pipeline.record import CURRENT, ImageRecord

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline


def model_of(record: ImageRecord, path: Path) -> Path | None:
    """The folder of the model that a record names; None for the embedded one.

    Raises:
        UsageError: if it names one of the hub that is not in the cache on this machine.
    """
    if record.model_source is None:
        return None
    return require_cached(record.model_source, f"The model of {path}", option="--model")


def require_cached(name: str, what: str, *, option: str) -> Path:
    """The folder of a hub repository that a file names, from this machine's cache.

    Args:
        name: hub id.
        what: names the model or adapter in the error.
        option: the option by which the user may name it.

    Raises:
        UsageError: if it is not in the cache: nothing is fetched on a file's word.
    """
    folder = in_cache(name)
    if folder is None:
        raise UsageError(
            f"{what} is not on this machine: {name}.",
            "nothing is fetched from the hub because a file says so",
            f"if you trust it, add {option} {name}",
        )
    return folder


def in_cache(name: str) -> Path | None:
    """Where the hub's cache keeps a repository, if it does. Asks nobody else."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None


def dtype_of(record: ImageRecord) -> str:
    """The precision that a record names, as the option takes it."""
    from bitvar.runtime.placement import DTYPES

    return next((name for name, dtype in DTYPES.items() if str(dtype) == f"torch.{record.dtype}"), "auto")


def check_same_model(record: ImageRecord, pipeline: "InfinityPipeline") -> None:
    """Say what may make a difference, and refuse another model.

    Raises:
        UsageError: if it is not the model that the record names.
    """
    old = record.format < CURRENT  # its image can't be had again, so any model of that name will do
    name = record.model is not None and record.model.partition("@")[0]
    if record.model is not None and record.model != pipeline.model_name and not (old and name == pipeline.index.name):
        raise UsageError(
            f"This is not the model that made the image: {pipeline.model_name}.",
            f"that was {record.model!r}",
            "name it with --model, and --tokenizer if it had another",
        )
    if old:
        say("Note: made by version 0.1.0, whose random numbers were others: the image differs.", err=True)
    if not record.batch_invariant:
        say("Note: made with others in one pass (batch_invariant=False); details may differ.", err=True)
    here = {
        "model": (record.model, pipeline.model_name),
        "bitvar": (record.version, __version__),
        "precision": (record.dtype, str(pipeline.transformer.dtype).removeprefix("torch.")),
        "device": (record.device, pipeline.transformer.device.type),
    }
    for what, (then, now) in here.items():
        if then is not None and then != now:
            say(f"Note: made with {what} {then!r}, and this is {now}; details may differ.", err=True)
