"""Checks of the arguments of the codec's public functions, made before any work starts."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from bitvar.codec.bitfile import BitFile, is_integer
from bitvar.errors import UsageError
from bitvar.files import is_file_name
from bitvar.imaging.open import ImageLimits, RefusedError, check_sides
from bitvar.tokenizer import ImageTokenizer


def require_path(value: object, what: str) -> Path:
    """Convert a str or Path to a path.

    Args:
        value: Argument to check.
        what: Name of the argument in the error.

    Raises:
        UsageError: for other types, and for names that no file can have.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        why = f"it is {_describe_type(value)}"
        fix = "give a path (str or Path), or for an image a PIL image: Image.fromarray(array), Image.open(file)"
        raise UsageError(f"This is no {what}.", why, fix)
    text = os.fspath(value)
    if not is_file_name(text):
        why = "it is empty, or contains a NUL or an incomplete character"
        raise UsageError(f"No {what} can be called {text!a}.", why, "check the path")
    return Path(text)


def require_count(value: object, name: str, *, minimum: int, maximum: int | None = None) -> None:
    """Require an integer from `minimum` to `maximum`; `name` says in the error what is counted."""
    is_in_range = isinstance(value, int) and value >= minimum and (maximum is None or value <= maximum)
    if is_integer(value) and is_in_range:
        return
    span = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum:,}"
    why = f"the number must be {span}" if is_integer(value) else f"it is {_describe_type(value)}, not a whole number"
    raise UsageError(f"Can't take {ascii(value)[:60]} {name}.", why, f"give {span}")


def require_scales(value: object) -> None:
    """Require a number of scales, or None."""
    if value is not None:
        require_count(value, "scales", minimum=1)


def require_series(value: object, what: str) -> None:
    """Require an iterable of items. A single path is refused, although a str iterates over its letters."""
    is_single = isinstance(value, str | bytes | bytearray | os.PathLike | Image.Image | BitFile)
    if is_single or not isinstance(value, Iterable):
        why = f"it is {_describe_type(value)}"
        raise UsageError(f"This is no series of {what}.", why, "give a list, even of one")


def require_tokenizer(value: object) -> None:
    """Require an image tokenizer."""
    if not isinstance(value, ImageTokenizer):
        why, fix = f"it is {_describe_type(value)}", "use ImageCodec.from_pretrained, or give an image tokenizer"
        raise UsageError("A codec needs a tokenizer.", why, fix)


def require_pixels(value: object, limits: ImageLimits, *, channels: int) -> None:
    """Require a batch of images with values 0..255, as many channels as the tokenizer has, and sides to encode."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 4 or value.shape[3] != channels:
        why, shape = f"it is {_describe_type(value)}", f"(images, height, width, {channels})"
        raise UsageError("This is no batch of images.", why, f"give a uint8 array of shape {shape}")
    if not len(value):
        raise UsageError("There is nothing to encode.", "the batch has no images", "give one or more")
    try:
        check_sides(value.shape[2], value.shape[1], limits)
    except RefusedError as error:
        raise UsageError("These images can't be used.", str(error), "resize them") from None


def _describe_type(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return "None" if value is None else f"of type {type(value).__name__}"
