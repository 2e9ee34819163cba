"""The artists of the sticker set: pinned packages of drawings, all under permissive licences.

Packages that the 64-pixel set or its judge use have their pins there; some have another style in captions here.
"""

from dataclasses import replace
from typing import Final

from bitvar.icons.dataset.judge_artists import JUDGE_ARTISTS
from bitvar.icons.dataset.sources import ARTISTS as FIRST_ARTISTS
from bitvar.icons.dataset.sources import PERMISSIVE, Artist

SILHOUETTES: Final = "silhouette"
"""Artist of one colour who draws what has no emoji."""

ONE_COLOUR: Final = frozenset({"high-contrast", SILHOUETTES})
"""Artists whose drawings are black and can be given any colour."""

PERMITTED: Final = PERMISSIVE | {"CC-BY-3.0"}
"""SPDX identifiers of the licences that a package may have."""

_PINNED: Final = {artist.key: artist for artist in (*FIRST_ARTISTS, *JUDGE_ARTISTS)}

ARTISTS: Final[tuple[Artist, ...]] = (
    _PINNED["noto"],
    replace(_PINNED["noto-v1"], style="old Noto emoji"),
    _PINNED["twemoji"],
    replace(_PINNED["emojione"], style="EmojiOne"),
    replace(_PINNED["fxemoji"], style="Firefox emoji"),
    _PINNED["fluent-flat"],
    replace(_PINNED["fluent-gradient"], key="fluent", style="glossy emoji"),
    _PINNED["fluent-3d"],
    _PINNED["streamline"],
    Artist(
        "high-contrast",
        "line icon",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        vector=True,
    ),
    Artist(
        SILHOUETTES,
        "silhouette",
        "@iconify-json/game-icons",
        "1.2.4",
        "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4",
        vector=True,
    ),
)
