"""Structure control of a pipeline: the loaded adapter, and the decoder of one call that follows a control image."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from bitvar import arguments
from bitvar.config import unknown
from bitvar.control.file import LoadedControl, find_control, read_control
from bitvar.control.maps import MapKind, control_map
from bitvar.control.tokens import ControlledDecoder
from bitvar.control.used import MAX_STRENGTH, UsedControl
from bitvar.errors import UsageError
from bitvar.lora.file import LoraBase
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.transformer import TransformerConfig

KINDS: Final[tuple[MapKind, ...]] = get_args(MapKind)


@dataclass(frozen=True)
class Control:
    """A control image for one call, with which all images of the call are drawn.

    Attributes:
        image: Drawing or other image, of any mode and size.
        strength: Factor of the control, from 0 to 4: one number, or one per scale, coarse to fine. 0 turns it off.
        kind: "lines" reads the lines of a drawing, dark on light or light on dark; "edges" computes the edges of any
            other image.

    Raises:
        UsageError: For a value of another type, or out of range.
    """

    image: Image.Image
    strength: float | tuple[float, ...] = 1.0
    kind: str = "lines"

    def __post_init__(self) -> None:
        _require_image(self.image)
        if self.kind not in KINDS:
            raise UsageError(unknown(f"kind {arguments.shown(self.kind)} of a control image", str(self.kind), KINDS))
        strength = arguments.checked("strength", self.strength, arguments.per_scale)
        for one in strength if isinstance(strength, tuple) else (strength,):
            if not 0 <= one <= MAX_STRENGTH:
                why = f"it must lie between 0 and {MAX_STRENGTH:g}, got {one:g}"
                raise UsageError("Bad value for the control's 'strength'.", why, "give 1, or a little less or more")
        object.__setattr__(self, "strength", strength)

    @classmethod
    def read(cls, value: Any) -> "Control | None":
        """Convert the argument of a call: a control, an image of lines, or None.

        Raises:
            UsageError: For a value of another type.
        """
        if isinstance(value, cls | None):
            return value
        _require_image(value)
        return cls(value)

    @property
    def map_kind(self) -> MapKind:
        """How the image is read."""
        return next(kind for kind in KINDS if kind == self.kind)

    def strengths(self, num_scales: int) -> tuple[float, ...]:
        """Return the strength of each scale.

        Raises:
            UsageError: If there are more or fewer strengths than scales.
        """
        given = self.strength if isinstance(self.strength, tuple) else (self.strength,) * num_scales
        if len(given) != num_scales:
            what = f"{len(given)} strengths of the control were given, and there are {num_scales} scales."
            raise UsageError(what, fix="give one number, or one per scale")
        return given


class ControlSlot:
    """The place for one control adapter beside a model.

    Args:
        config: Configuration of the model's transformer.
    """

    def __init__(self, config: TransformerConfig) -> None:
        self._config = config
        self._loaded: LoadedControl | None = None

    @property
    def sha256(self) -> str | None:
        """Digest of the loaded adapter's file; None without one."""
        return None if self._loaded is None else self._loaded.sha256

    def load(self, source: str | Path, *, base: LoraBase, revision: str | None = None) -> None:
        """Load an adapter in place of the one before.

        Raises:
            UsageError: For a missing source.
            WeightsError: For a damaged file, another format, or an adapter of another model. The slot keeps what it
                had.
        """
        self._loaded = read_control(find_control(source, revision), base=base, model=self._config)

    def clear(self) -> None:
        """Remove the adapter."""
        self._loaded = None

    def around(
        self, plain: ScaleDecoder[Any], control: Control | None, schedule: ScaleSchedule
    ) -> tuple[ScaleDecoder[Any], dict[str, Any]]:
        """Wrap a decoder for one call; without a control, return it as it is.

        Args:
            plain: Decoder that computes the logits.
            control: Control of the call.
            schedule: Schedule of the call's images.

        Returns:
            The decoder, and what the metadata of the images say of the control.

        Raises:
            UsageError: If no adapter is loaded, or the control image or its strengths can't be used.
        """
        if control is None:
            return plain, {}
        if self._loaded is None:
            why = "a control image needs a control adapter, and none is loaded"
            raise UsageError("The control image would do nothing.", why, 'load one first: pipe.load_control("lines")')
        strengths = control.strengths(len(schedule))
        side = self._loaded.adapter.config.pixels_per_cell * self._config.patch_size
        height, width = schedule[-1]
        drawn = control_map(control.image, (width * side, height * side), control.map_kind)
        with torch.inference_mode():
            maps = torch.from_numpy(drawn).float()[None, None] / 255
            additions = self._loaded.adapter(maps, schedule)
            scaled = [part * strength for part, strength in zip(additions, strengths, strict=True)]
        used = UsedControl(
            adapter=self._loaded.sha256, map=map_digest(drawn), strength=control.strength, kind=control.map_kind
        )
        return ControlledDecoder(plain, scaled), {"control": used.model_dump()}


def _require_image(value: Any) -> None:
    if not isinstance(value, Image.Image):
        why = f"got {arguments.shown(value)}"
        raise UsageError("A control takes a PIL image.", why, "open the file with PIL.Image.open")


def map_digest(drawn: UInt8[np.ndarray, "H W"]) -> str:
    """Compute the sha256 of a map: its height and width, and its bytes."""
    height, width = drawn.shape
    return hashlib.sha256(f"{height} {width}\n".encode() + drawn.tobytes()).hexdigest()
