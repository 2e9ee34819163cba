"""The artists whose drawings only the scene judge is trained on; no generator in bitvar has seen them.

These packages list no code points, so their drawings are found by name. A package may lack concepts. This module
knows nothing about scenes; `sources` fetches and renders.
"""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from bitvar.icons.dataset.concepts import Concept
from bitvar.icons.dataset.sources import Artist, read_icon_set, render_icon
from bitvar.icons.dataset.sprites import trim_to_alpha

JUDGE_ARTISTS: tuple[Artist, ...] = (
    Artist(
        "noto-v1",
        "first Noto emoji",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        vector=True,
    ),
    Artist(
        "emojione",
        "Emoji One",
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        vector=True,
    ),
    Artist(
        "fluent-gradient",
        "gradient emoji",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        vector=True,
    ),
    Artist(
        "fxemoji",
        "Firefox OS emoji",
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        vector=True,
    ),
    Artist(
        "streamline",
        "Streamline emoji",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        vector=True,
    ),
)

# The packages' names of concepts, where they aren't simply ours with hyphens.
_NAMES: dict[str, str] = {
    "dog": "dog-face",
    "cat": "cat-face",
    "mouse": "mouse-face",
    "rabbit": "rabbit-face",
    "tiger": "tiger-face",
    "cow": "cow-face",
    "pig": "pig-face",
    "monkey": "monkey-face",
    "bee": "honeybee",
    "ladybug": "lady-beetle",
    "whale": "spouting-whale",
    "dinosaur": "t-rex",
    "apple": "red-apple",
    "slice of watermelon": "watermelon",
    "bunch of grapes": "grapes",
    "pair of cherries": "cherries",
    "loaf of bread": "bread",
    "piece of cheese": "cheese-wedge",
    "box of french fries": "french-fries",
    "slice of pizza": "pizza",
    "ice cream cone": "soft-ice-cream",
    "cup of tea": "teacup-without-handle",
    "mug of beer": "beer-mug",
    "glass of wine": "wine-glass",
    "car": "automobile",
    "truck": "delivery-truck",
    "steam train": "locomotive",
    "cap": "billed-cap",
    "sneaker": "running-shoe",
    "pair of glasses": "glasses",
    "pair of jeans": "jeans",
    "pair of socks": "socks",
    "book": "closed-book",
    "gift": "wrapped-gift",
    "gem": "gem-stone",
    "padlock": "locked",
    "pair of scissors": "scissors",
    "tree": "deciduous-tree",
    "pine tree": "evergreen-tree",
    "snowman": "snowman-without-snow",
    "flame": "fire",
    "water droplet": "droplet",
    "lightning bolt": "high-voltage",
    "globe": "globe-showing-europe-africa",
    "smiling face": "smiling-face-with-smiling-eyes",
    "crying face": "loudly-crying-face",
    "angry face": "pouting-face",
    "face with sunglasses": "smiling-face-with-sunglasses",
    "face with heart eyes": "smiling-face-with-heart-eyes",
    "jack-o'-lantern": "jack-o-lantern",
    "heart": "red-heart",
}

_FIREFOX: dict[str, str] = {
    "dog": "dog",
    "cat": "cat",
    "mouse": "mouse",
    "rabbit": "bunny",
    "tiger": "tiger",
    "panda": "pandaface",
    "pig": "pig",
    "ear of corn": "earofmaize",
    "eggplant": "aubergine",
    "ice cream cone": "softicecream",
    "steam train": "steamlocomotive",
    "t-shirt": "mansshirt",
    "sneaker": "mensrunner",
    "high-heeled shoe": "heels",
    "backpack": "schoolsatchel",
    "telephone": "blacktelephone",
    "laptop": "personalcomputer",
    "gift": "present",
    "padlock": "lock",
    "pair of scissors": "blackscissors",
    "pencil": "lowerleftpencil",
    "pine tree": "evergreen",
    "sun": "sunrays",
    "star": "whitemediumstar",
    "lightning bolt": "bolt",
    "globe": "europeafricaglobe",
    "house": "housebuilding",
    "castle": "europeancastle",
    "smiling face": "smileeyes",
    "crying face": "loudlycrying",
    "angry face": "pouting",
    "face with sunglasses": "sunglasses",
    "face with heart eyes": "hearteyes",
    "gem": "gem",
    "tomato": "tomato",
}

_STREAMLINE: dict[str, str] = {
    "fox": "fox-face-1",
    "bear": "bear-face",
    "panda": "panda-face",
    "lion": "lion-face",
    "frog": "frog-face",
    "penguin": "penguin-1",
    "bird": "bird-1",
    "unicorn": "unicorn-face",
    "slice of watermelon": "watermelon-1",
    "strawberry": "strawberry-1",
    "hamburger": "hamburger-1",
    "slice of pizza": "pizza-1",
    "doughnut": "doughnut-1",
    "birthday cake": "birthday-cake-1",
    "ice cream cone": "soft-ice-cream-1",
    "backpack": "school-backpack",
    "pair of glasses": "glasses-1",
    "book": "green-book",
    "gift": "wrapped-gift-1",
    "cactus": "cactus-1",
    "sunflower": "sunflower-1",
    "snowman": "snowman",
    "house": "house-with-garden",
    "robot": "robot-face-1",
    "heart": "heart-suit",
    "television": "television",
    "sun": "sun-with-face",
}

_OWN_NAMES: dict[str, Mapping[str, str]] = {
    "emojione": {"robot": "robot-face"},
    "fxemoji": _FIREFOX,
    "streamline": _STREAMLINE,
}


def render_known_sprites(
    artist: Artist, tarball: Path, concepts: Sequence[Concept], *, side: int
) -> dict[str, Image.Image]:
    """Render an artist's drawings of the concepts that its package has, on a canvas of `side` x `side` pixels.

    They are returned by concept name, as RGBA images trimmed to their opaque part.
    """
    with tarfile.open(tarball) as archive:
        icon_set = read_icon_set(archive)
    drawings = {}
    for concept in concepts:
        name = _icon_name(artist.key, concept.name)
        name = icon_set.get("aliases", {}).get(name, {}).get("parent", name)
        if name in icon_set["icons"]:
            drawings[concept.name] = trim_to_alpha(render_icon(icon_set, name, side=side))
    return drawings


def _icon_name(artist: str, concept: str) -> str:
    """Find the package's name for a concept."""
    own = _OWN_NAMES.get(artist, {})
    if concept in own:
        return own[concept]
    name = _NAMES.get(concept, concept.replace(" ", "-"))
    return name.replace("-", "") if artist == "fxemoji" else name
