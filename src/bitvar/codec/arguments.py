"""What the codec's public functions refuse of their arguments, in three lines and before any work."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from bitvar.codec.bitfile import BitFile, is_integer
from bitvar.errors import UsageError
from bitvar.files import is_file_name
from bitvar.imaging.open import ImageLimits, RefusedError, check_sides
from bitvar.tokenizer import InfinityTokenizer


def require_path(value: object, what: str) -> Path:
    """The path that a str or Path gives.

    Args:
        value: what was given.
        what: calls it in the error.

    Raises:
        UsageError: for anything else, and for what no file can be called.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        why = f"it is {_kind(value)}"
        todo = "give a path (str or Path), or for an image a PIL image: Image.fromarray(array), Image.open(file)"
        raise UsageError(f"This is no {what}.", why, todo)
    text = os.fspath(value)
    if not is_file_name(text):
        why = "it is empty, or holds a NUL or half a character"
        raise UsageError(f"No {what} can be called {text!a}.", why, "check the path")
    return Path(text)


def require_count(value: object, name: str, *, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number from `least` to `most`; `name` calls what is counted."""
    if is_integer(value) and isinstance(value, int) and value >= least and (most is None or value <= most):
        return
    span = f"{least} or more" if most is None else f"{least} to {most:,}"
    why = f"it is a whole number, {span}" if is_integer(value) else f"it is {_kind(value)}, not a whole number"
    raise UsageError(f"Can't take {ascii(value)[:60]} {name}.", why, f"give {span}")


def require_scales(value: object) -> None:
    """Refuse what is no number of first scales, and not None."""
    if value is not None:
        require_count(value, "scales", least=1)


def require_series(value: object, what: str) -> None:
    """Refuse one thing where several are wanted: the letters of a path are no paths."""
    single = isinstance(value, str | bytes | bytearray | os.PathLike | Image.Image | BitFile)
    if single or not isinstance(value, Iterable):
        why = f"it is {_kind(value)}"
        raise UsageError(f"This is no series of {what}.", why, "give a list, even of one")


def require_tokenizer(value: object) -> None:
    """Refuse what is no tokenizer."""
    if not isinstance(value, InfinityTokenizer):
        why, todo = f"it is {_kind(value)}", "use ImageCodec.from_pretrained, or give an InfinityTokenizer"
        raise UsageError("A codec needs a tokenizer.", why, todo)


def require_pixels(value: object, limits: ImageLimits) -> None:
    """Refuse what is no batch of RGB images of 0..255 that can be encoded."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 4 or value.shape[3] != 3:
        why = f"it is {_kind(value)}"
        raise UsageError("This is no batch of images.", why, "give uint8 of (images, height, width, 3)")
    if not len(value):
        raise UsageError("There is nothing to encode.", "the batch has no images", "give one or more")
    try:
        check_sides(value.shape[2], value.shape[1], limits)
    except RefusedError as error:
        raise UsageError("These images can't be used.", str(error), "resize them") from None


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"
