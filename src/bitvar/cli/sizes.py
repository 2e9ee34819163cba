"""`--size`, `--aspect` and `--exact-size`: the requested size, and a note where the model generates another."""

from typing import TYPE_CHECKING

from bitvar.errors import UsageError, explain
from bitvar.pipeline.sizes import RequestedSize, nearest_size, parse_aspect_ratio, parse_size

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline


def read_size(size: str | None, aspect: str | None) -> RequestedSize | None:
    """The size that --size or --aspect requests; None if neither was given.

    Raises:
        UsageError: Both were given, or one can't be read or is out of bounds.
    """
    if size is not None and aspect is not None:
        raise UsageError("Both --size and --aspect were given.", "a size already sets the aspect ratio", "give one")
    if size is not None:
        return parse_size(size)
    return None if aspect is None else parse_aspect_ratio(aspect)


def size_to_generate(pipeline: "InfinityPipeline", requested: tuple[int, int], *, exact: bool) -> tuple[int, int]:
    """The (width, height) that the model generates for a requested one.

    Raises:
        UsageError: The nearest size differs by more than a factor of two, and the result won't be resized.
    """
    try:
        return nearest_size(pipeline, requested, any_distance=exact)
    except UsageError as error:
        raise UsageError(f"{error}; or add --exact-size, which resizes the image") from None


def describe_difference(
    size: RequestedSize, requested: tuple[int, int], generated: tuple[int, int], *, exact: bool
) -> str:
    """Explain how the generated size differs from the requested one, in three lines."""
    in_pixels, got = f"{requested[0]}x{requested[1]}", f"{generated[0]}x{generated[1]}"
    wanted = f"{size.text} (here {in_pixels})" if size.is_ratio else in_pixels
    if exact:
        todo = f"nothing: the image is resized and cropped to {in_pixels}; --no-exact-size gives {got}"
    else:
        todo = f"add --exact-size to resize and crop it to exactly {in_pixels}"
    why = "it is the nearest size this model was trained on"
    return explain(f"Note: asked for {wanted}; the model draws {got}.", why, todo)
