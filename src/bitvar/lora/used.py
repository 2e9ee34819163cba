"""An adapter that took part in an image, as a checked value that records and pipelines share."""

from typing import Annotated, TypeAlias

from pydantic import Field, StrictBool

from bitvar.config import Config

HubId: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.-]{1,96}$")]
"""A hub id `owner/name`; never a path."""


class UsedAdapter(Config):
    """An active adapter, as an image's record names it.

    Attributes:
        name: Name it was loaded under.
        weight: Weight it was applied with.
        source: Hub id it came from; None for a file.
        sha256: SHA-256 of its file; empty when unknown.
        fused: Whether it was fused into the model's weights.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")
    weight: float = Field(strict=True)
    source: HubId | None
    sha256: str = Field(pattern=r"^[0-9a-f]{0,64}$")
    fused: StrictBool
