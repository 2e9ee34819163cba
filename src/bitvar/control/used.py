"""The description of a control that an image was made with, as a validated value that records and pipelines share."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from bitvar.config import Config

MAX_STRENGTH = 4.0
"""Upper bound on a control's strength. An adapter is trained at 1; images fall apart well below the bound."""

Strength: TypeAlias = Annotated[float, Field(ge=0, le=MAX_STRENGTH)]

Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class UsedControl(Config):
    """A control, as an image's record names it.

    Attributes:
        adapter: SHA-256 of the control adapter's file.
        map: SHA-256 of the map in bytes, at the size of the image (`pipeline/control.py:map_digest`).
        strength: Factor of the adapter's output: one, or one per scale.
        kind: How the control image was read: "lines" or "edges".
    """

    adapter: Sha256
    map: Sha256
    strength: Strength | Annotated[tuple[Strength, ...], Field(min_length=1, max_length=64)]
    kind: Literal["lines", "edges"]
