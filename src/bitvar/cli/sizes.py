"""Sizes as asked for on the command line, and what a model draws for them."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bitvar.errors import UsageError, explain
from bitvar.scales import nearest_schedule

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline

MAX_SIDE: Final = 16384
MAX_RATIO: Final = 100


@dataclass(frozen=True)
class AskedSize:
    """A size or an aspect ratio, as the user wrote it.

    Attributes:
        text: what was written.
        width, height: pixels, or the two sides of the ratio.
        ratio: whether it is an aspect ratio.
    """

    text: str
    width: float
    height: float
    ratio: bool

    def pixels(self, usual: tuple[int, int]) -> tuple[int, int]:
        """Width and height in pixels; of a ratio, at the area of the model's usual size."""
        if not self.ratio:
            return int(self.width), int(self.height)
        side = math.sqrt(usual[0] * usual[1])
        factor = math.sqrt(self.width / self.height)
        return max(1, round(side * factor)), max(1, round(side / factor))


def read_size(size: str | None, aspect: str | None) -> AskedSize | None:
    """What --size or --aspect says; None if neither was given.

    Raises:
        UsageError: if both were given, or one can't be read or is out of bounds.
    """
    if size is not None and aspect is not None:
        raise UsageError("Both --size and --aspect were given.", "one decides the other", "give one of them")
    if size is not None:
        found = re.fullmatch(r"([0-9]{1,12})[xX\u00d7*]([0-9]{1,12})", size.strip())
        if found is None:
            raise _unreadable("size", size, "two whole numbers with an x between", "512x512")
        width, height = int(found[1]), int(found[2])
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            why = f"each side takes 1 to {MAX_SIDE} pixels"
            raise UsageError(f"Can't draw the size {size!r}.", why, "write it like 512x512")
        return AskedSize(size.strip(), width, height, ratio=False)
    if aspect is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)[:/]([0-9]{1,6}(?:\.[0-9]{1,6})?)", aspect.strip())
    if found is None:
        raise _unreadable("aspect ratio", aspect, "two plain numbers with a colon between, width first", "16:9")
    width, height = float(found[1]), float(found[2])
    if not (width > 0 and height > 0 and 1 / MAX_RATIO <= width / height <= MAX_RATIO):
        why = f"width to height lies between 1:{MAX_RATIO} and {MAX_RATIO}:1"
        raise UsageError(f"Can't draw the aspect ratio {aspect!r}.", why, "write it like 16:9")
    return AskedSize(aspect.strip(), width, height, ratio=True)


def drawn_size(pipeline: "InfinityPipeline", wanted: tuple[int, int], *, exact: bool) -> tuple[int, int]:
    """The (width, height) the model draws for a wanted one; of any size if the result is to be resized.

    Raises:
        UsageError: if the nearest is further away than a factor of two and isn't to be resized.
    """
    schedules = pipeline.transformer.config.all_schedules()
    tolerance = math.inf if exact else 2.0
    try:
        schedule = nearest_schedule(
            schedules, height=wanted[1], width=wanted[0], stride=pipeline.stride, tolerance=tolerance
        )
    except UsageError as error:
        raise UsageError(f"{error}; or add --exact-size, which resizes the image") from None
    return schedule[-1][1] * pipeline.stride, schedule[-1][0] * pipeline.stride


def difference(asked: AskedSize, wanted: tuple[int, int], drawn: tuple[int, int], *, exact: bool) -> str | None:
    """The three lines that say how what is drawn differs from what was asked for; None if it doesn't."""
    same = drawn == wanted
    if asked.ratio:
        same = math.isclose(drawn[0] / drawn[1], asked.width / asked.height, rel_tol=0.002)
    if same:
        return None
    what, got = f"{wanted[0]}x{wanted[1]}", f"{drawn[0]}x{drawn[1]}"
    named = f"{asked.text} (here {what})" if asked.ratio else what
    why = "it is the nearest size this model was trained on"
    if exact:
        todo = f"nothing: the image is resized and cut to {what}; --no-exact-size gives {got}"
    else:
        todo = f"add --exact-size to have it resized and cut to exactly {what}"
    return explain(f"Note: asked for {named}; the model draws {got}.", why, todo)


def _unreadable(what: str, text: str, form: str, example: str) -> UsageError:
    return UsageError(f"Can't read the {what} {text!r}.", f"it is not {form}", f"write it like {example}")
