"""`--lora PATH_OR_ID[:WEIGHT]`: adapters for a pipeline, from the options or from an image's record."""

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from bitvar.cli.echo import say
from bitvar.errors import UsageError
from bitvar.lora.adapters import require_weight
from bitvar.lora.file import WEIGHTS
from bitvar.lora.layers import valid_name
from bitvar.lora.used import UsedAdapter
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.reproduce import load_recorded_adapters


def read_option(text: str) -> tuple[str, float | None]:
    """Split an option into its source and its weight, None if it has none.

    An existing path is a source as a whole, colons included.

    Raises:
        UsageError: The option has no source, or its weight can't be used.
    """
    source, separator, weight = text.rpartition(":")
    if not (source if separator else text):
        why = "it is empty, or only has a weight"
        raise UsageError(f"--lora {text!r} names no adapter.", why, "write PATH_OR_ID or PATH_OR_ID:0.8")
    if not separator or Path(text).exists():
        return text, None
    try:
        return source, require_weight(float(weight), f"The weight of --lora {source}")
    except UsageError:
        raise
    except ValueError:
        why = f"{weight!r} after the last colon is not a number"
        raise UsageError(f"Can't read --lora {text!r}.", why, "write PATH_OR_ID:0.8, or no colon") from None


def load_adapters(pipeline: InfinityPipeline, options: Sequence[str]) -> None:
    """Load the adapters of the options under different names, and activate all of them."""
    weights: dict[str, float] = {}
    for source, weight in [_read_source(option) for option in options]:  # refuse a bad weight before any loading
        name = _name(source, taken=weights)
        with _warnings_as_notes():
            pipeline.load_lora_weights(source, adapter_name=name)
        weights[name] = 1.0 if weight is None else weight
    pipeline.set_adapters(list(weights), list(weights.values()))


def load_adapters_of_record(
    pipeline: InfinityPipeline, options: Sequence[str], adapters: Sequence[UsedAdapter]
) -> None:
    """Load exactly the adapters that an image was made with, from the options or else from the hub's cache.

    Raises:
        UsageError: An option has a weight, or `load_recorded_adapters` refuses.
    """
    given = [_read_source(option) for option in options]
    if any(weight is not None for _, weight in given):
        why = "--from takes the weights from the image"
        raise UsageError("--lora has a weight.", why, "leave out the colon and the number")
    with _warnings_as_notes():
        load_recorded_adapters(pipeline, adapters, [source for source, _ in given])


def _read_source(option: str) -> tuple[str, float | None]:
    """Source and weight of an option; the folder of a training run is no source, since the adapter is inside."""
    source, weight = read_option(option)
    inside = Path(source) / "lora"
    if (inside / WEIGHTS).is_file() and not any(Path(source).glob("*.safetensors")):
        why = "it is the folder of a training run, which keeps its adapter in lora/"
        raise UsageError(f"{source} is not an adapter.", why, f"give --lora {inside}")
    return source, weight


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print the warnings of a block as notes on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        say(f"Note: {warning.message}", err=True)


def _name(source: str, *, taken: Collection[str]) -> str:
    """An adapter name made from the name of the file, folder or repository; numbered if it is taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name.removesuffix(".safetensors")).replace("lora_", "lora-")
    name = plain if valid_name(plain) else f"{plain}-lora"
    return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}-{i}") not in taken)
