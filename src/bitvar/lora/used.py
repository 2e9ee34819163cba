"""The description of an adapter used for an image, as a validated value that records and pipelines share."""

from typing import Annotated, TypeAlias

from pydantic import Field, StrictBool

from bitvar.config import Config

HubId: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.-]{1,96}$")]
"""A hub id `owner/name`, never a path."""


class UsedAdapter(Config):
    """An active adapter, as an image's record names it.

    Attributes:
        name: Name that the adapter was loaded under.
        weight: Weight that the adapter was applied with.
        source: Hub id that the adapter came from; None for a file.
        sha256: SHA-256 of the adapter's file; empty when unknown.
        fused: Whether the adapter was fused into the model's weights.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")
    weight: float = Field(strict=True)
    source: HubId | None
    sha256: str = Field(pattern=r"^[0-9a-f]{0,64}$")
    fused: StrictBool
