"""The artists of the sticker set: pinned packages of drawings, all under permissive licences.

The first four are those of the 64-pixel set, under the same names.
"""

from typing import Final

from bitvar.icons.dataset.sources import Artist

SILHOUETTES: Final = "silhouette"
"""Artist of one colour who draws what has no emoji."""

ONE_COLOUR: Final = frozenset({"high-contrast", SILHOUETTES})
"""Artists whose drawings are black and can be given any colour."""

ARTISTS: Final[tuple[Artist, ...]] = (
    Artist(
        "noto",
        "Noto emoji",
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        vector=True,
    ),
    Artist(
        "noto-v1",
        "old Noto emoji",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        vector=True,
    ),
    Artist(
        "twemoji",
        "Twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        vector=True,
    ),
    Artist(
        "emojione",
        "EmojiOne",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        vector=True,
    ),
    Artist(
        "fxemoji",
        "Firefox emoji",
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        vector=True,
    ),
    Artist(
        "fluent-flat",
        "flat emoji",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        vector=True,
    ),
    Artist(
        "fluent",
        "glossy emoji",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        vector=True,
    ),
    Artist(
        "fluent-3d",
        "3D emoji",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        vector=False,
    ),
    Artist(
        "streamline",
        "Streamline emoji",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        vector=True,
    ),
    Artist(
        "high-contrast",
        "line icon",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        vector=True,
    ),
    Artist(
        "silhouette",
        "silhouette",
        "@iconify-json/game-icons",
        "1.2.4",
        "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4",
        vector=True,
    ),
)

AUTHORS: Final = {
    "noto": ("Google", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    "noto-v1": ("Google", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
    "twemoji": ("Twitter", "CC-BY-4.0", "https://github.com/twitter/twemoji"),
    "emojione": ("EmojiOne", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo"),
    "fxemoji": ("Mozilla", "Apache-2.0", "https://github.com/mozilla/fxemoji"),
    "fluent-flat": ("Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    "fluent": ("Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    "fluent-3d": ("Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    "streamline": ("Streamline", "CC-BY-4.0", "https://github.com/webalys-hq/streamline-vectors"),
    "high-contrast": ("Microsoft", "MIT", "https://github.com/microsoft/fluentui-emoji"),
    SILHOUETTES: ("game-icons.net", "CC-BY-3.0", "https://github.com/game-icons/icons"),
}
"""Who drew for each artist, the licence that the package's metadata names, and where the drawings come from."""
