"""`--control ADAPTER --control-image FILE`: a drawing that an image follows, from options or an image's record."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitvar.cli.echo import say
from bitvar.control.maps import control_map
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, require_image
from bitvar.pipeline.control import Control, map_digest

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline
    from bitvar.pipeline.record import ImageRecord


@dataclass(frozen=True)
class ControlOptions:
    """The options of the command as they were given; None for those left out.

    Attributes:
        adapter: Name, file, folder or hub id of the control adapter.
        image: File of the control image.
        strength: Strength: one number, or one per scale.
        kind: How the image is read: "lines" or "edges".
    """

    adapter: str | None
    image: Path | None
    strength: float | tuple[float, ...] | None
    kind: str | None


def read_control_options(
    options: ControlOptions, record: "ImageRecord | None", from_image: Path | None
) -> "Control | None":
    """Read the control image, with settings from the record of the image to make again where the options have none.

    Raises:
        UsageError: If only one of adapter and image is given, the image can't be used, or the image to make again had
            a control and the options name none.
    """
    recorded = None if record is None else record.control
    if options.adapter is None or options.image is None:
        if recorded is not None:
            why = f"it followed a control image with the control adapter of sha256 {recorded.adapter}"
            fix = "name both with --control and --control-image"
            raise UsageError(f"{from_image} was made with a control.", why, fix)
        given = {"--control": options.adapter, "--control-image": options.image}
        rest = {"--control-strength": options.strength, "--control-kind": options.kind}
        named = [name for name, value in (given | rest).items() if value is not None]
        if not named:
            return None
        missing = [name for name, value in given.items() if value is None]
        why = "a control needs an adapter and the image to follow"
        raise UsageError(f"{named[0]} was given without {missing[0]}.", why, f"add {' and '.join(missing)}")
    limits = ImageLimits(min_side=1, max_ratio=1000)
    image = require_image(options.image, limits, todo="give a PNG, WebP or JPEG file", transparent=True)
    chosen: dict[str, Any] = {} if recorded is None else {"strength": recorded.strength, "kind": recorded.kind}
    given_too = {"strength": options.strength, "kind": options.kind}
    return Control(image, **chosen | {name: value for name, value in given_too.items() if value is not None})


def load_control(
    pipeline: "InfinityPipeline", options: ControlOptions, record: "ImageRecord | None", from_image: Path | None
) -> None:
    """Load the adapter of the options, if there is one, and say where it differs from that of the record."""
    if options.adapter is None:
        return
    pipeline.load_control(options.adapter)
    recorded = None if record is None or record.control is None else record.control.adapter
    if record is not None and recorded != pipeline.control_sha256:
        say(f"Changed from {from_image}: control: {recorded or 'none'} -> {pipeline.control_sha256}", err=True)


def note_other_map(
    control: "Control | None", size: tuple[int, int], record: "ImageRecord | None", from_image: Path | None
) -> None:
    """Say that the control image is another one than that of the image to make again.

    Args:
        control: Control of the options.
        size: Width and height in pixels that the model generates.
        record: Record of the image to make again.
        from_image: Its file.
    """
    if control is None or record is None or record.control is None:
        return
    drawn = map_digest(control_map(control.image, size, control.map_kind))
    if drawn != record.control.map:
        say(f"Changed from {from_image}: control image: {record.control.map} -> {drawn}", err=True)
