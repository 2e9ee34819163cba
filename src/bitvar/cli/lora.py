"""`--lora PATH_OR_ID[:WEIGHT]`: adapters for a pipeline, as asked for or as an image says."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from bitvar.cli.echo import say
from bitvar.cli.from_record import require_cached
from bitvar.errors import UsageError
from bitvar.lora.adapters import require_weight
from bitvar.lora.file import adapter_digest, find_adapter
from bitvar.lora.layers import valid_name
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.record import UsedAdapter


def read_option(text: str) -> tuple[str, float | None]:
    """The source and the weight, None if there is none; a path that exists is a source whatever it holds."""
    source, separator, weight = text.rpartition(":")
    if not (source if separator else text):
        why = "it is empty, or has a weight alone"
        raise UsageError(f"--lora {text!r} names no adapter.", why, "write PATH_OR_ID or PATH_OR_ID:0.8")
    if not separator or Path(text).exists():
        return text, None
    try:
        return source, require_weight(float(weight), f"The weight of --lora {source}")
    except UsageError:
        raise
    except ValueError:
        why = f"{weight!r} after the last colon is no number"
        raise UsageError(f"Can't read --lora {text!r}.", why, "write PATH_OR_ID:0.8, or no colon") from None


def load_adapters(pipeline: InfinityPipeline, options: Sequence[str]) -> None:
    """Load adapters under names of their own and let all of them count."""
    weights: dict[str, float] = {}
    for source, weight in [read_option(option) for option in options]:  # a bad weight is told before any is loaded
        name = _name(source, taken=weights)
        _load(pipeline, source, name)
        weights[name] = 1.0 if weight is None else weight
    pipeline.set_adapters(list(weights), list(weights.values()))


def load_adapters_of_record(pipeline: InfinityPipeline, options: Sequence[str], wanted: Sequence[UsedAdapter]) -> None:
    """Load the very adapters that an image was made with: from the hub's cache, or from the files in `options`.

    Raises:
        UsageError: for another number of them, other files, weights of one's own, adapters that had been fused, or
            ones of the hub that are not on this machine and that nobody named.
    """
    needed = "; ".join(f"{adapter.name} (sha256 {adapter.sha256})" for adapter in wanted) or "none"
    if any(adapter.fused for adapter in wanted):
        why = f"fused weights can't be had from a command: {needed}"
        raise UsageError("The image was made with fused adapters.", why, "make it again in Python")
    given = [read_option(option) for option in options]
    sources = [source for source, _ in given] if given else [_on_this_machine(adapter) for adapter in wanted]
    sources = [source for source in sources if source is not None]
    if len(sources) != len(wanted):
        why = f"the image was made with: {needed}"
        raise UsageError("The adapters aren't those of the image.", why, "name them with --lora, in order")
    for source, adapter in zip(sources, wanted, strict=True):
        if (found := adapter_digest(find_adapter(source))) != adapter.sha256:
            why = f"{source} is sha256 {found}; the image was made with: {needed}"
            raise UsageError(f"This is not the adapter {adapter.name!r}.", why, "name them with --lora, in order")
    if any(weight is not None for _, weight in given):
        why = "--from takes them from the image"
        raise UsageError("An adapter was given a weight.", why, "leave out the colon and the number")
    for source, adapter in zip(sources, wanted, strict=True):
        _load(pipeline, source, adapter.name)
    if wanted:
        pipeline.set_adapters([adapter.name for adapter in wanted], [adapter.weight for adapter in wanted])


def _on_this_machine(adapter: UsedAdapter) -> str | None:
    """The folder of an adapter of the hub; None for one of a file, which only the user can name."""
    if adapter.source is None:
        return None
    return str(require_cached(adapter.source, f"The adapter {adapter.name!r}", option="--lora"))


def _load(pipeline: InfinityPipeline, source: str, name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        pipeline.load_lora_weights(source, adapter_name=name)
    for warning in caught:
        say(f"Note: {warning.message}", err=True)


def _name(source: str, *, taken: Sequence[str] | dict[str, float]) -> str:
    """A name from that of the file, folder or repository; numbered if taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name.removesuffix(".safetensors")).replace("lora_", "lora-")
    name = plain if valid_name(plain) else f"{plain}-lora"
    return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}-{i}") not in taken)
