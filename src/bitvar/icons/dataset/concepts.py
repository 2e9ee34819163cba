"""The concepts that the icon set shows: names as captions say them, code points, plurals and colours.

The table holds no people (hence no skin tones) and no flags. Every artist of `sources.ARTISTS` has a drawing of every
concept. This module knows nothing about images.
"""

from dataclasses import dataclass

# Words whose first letter misleads: spoken with a consonant first, or with a vowel first.
_CONSONANT_SOUNDS = ("uni", "ufo", "one-", "eu")
_VOWEL_SOUNDS = ("hour", "honest")


@dataclass(frozen=True)
class Concept:
    """One kind of object.

    `name` is the noun phrase without an article ("pair of scissors"), `code_point` the emoji's hexadecimal code points
    joined by "-", `plural` the phrase after a number ("pairs of scissors"); `recolourable` says that the object looks
    sensible in every colour of `COLOURS`.
    """

    name: str
    code_point: str
    category: str
    plural: str
    recolourable: bool


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase, by the sound of its first word: "an apple", "a unicorn", "an orange car"."""
    start = phrase.lower()
    vowel = start.startswith(_VOWEL_SOUNDS) or (start[:1] in "aeiou" and not start.startswith(_CONSONANT_SOUNDS))
    return f"{'an' if vowel else 'a'} {phrase}"


def named(concept: Concept, colour: str | None = None) -> str:
    """Mention one object of a concept as captions do: "a car", or in a colour, "an orange car"."""
    return with_article(concept.name if colour is None else f"{colour} {concept.name}")


# Object colours: the RGB value (0..255) that the middle tones of a recoloured object take.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (246, 134, 20),
    "yellow": (250, 208, 34),
    "green": (56, 164, 62),
    "blue": (40, 104, 218),
    "purple": (132, 62, 188),
    "pink": (246, 128, 182),
    "brown": (124, 76, 42),
}

# Background colours, RGB 0..255: lighter than the object colours, and still unmistakable.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (236, 96, 92),
    "orange": (250, 172, 88),
    "yellow": (252, 230, 118),
    "green": (136, 206, 132),
    "blue": (130, 184, 242),
    "purple": (182, 146, 226),
    "pink": (251, 186, 212),
    "brown": (160, 114, 78),
    "black": (24, 24, 28),
    "grey": (184, 186, 190),
}

NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}

# (name, code point) or (name, code point, plural); the default plural is the name with "s".
_ROWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "animal": (
        ("dog", "1f436"),
        ("cat", "1f431"),
        ("mouse", "1f42d", "mice"),
        ("rabbit", "1f430"),
        ("fox", "1f98a", "foxes"),
        ("bear", "1f43b"),
        ("panda", "1f43c"),
        ("koala", "1f428"),
        ("tiger", "1f42f"),
        ("lion", "1f981"),
        ("cow", "1f42e"),
        ("pig", "1f437"),
        ("frog", "1f438"),
        ("monkey", "1f435"),
        ("chicken", "1f414"),
        ("penguin", "1f427"),
        ("bird", "1f426"),
        ("owl", "1f989"),
        ("unicorn", "1f984"),
        ("bee", "1f41d"),
        ("butterfly", "1f98b", "butterflies"),
        ("snail", "1f40c"),
        ("ladybug", "1f41e"),
        ("turtle", "1f422"),
        ("octopus", "1f419", "octopuses"),
        ("crab", "1f980"),
        ("whale", "1f433"),
        ("fish", "1f41f", "fish"),
        ("elephant", "1f418"),
        ("giraffe", "1f992"),
        ("zebra", "1f993"),
        ("dinosaur", "1f996"),
        ("flamingo", "1f9a9"),
        ("parrot", "1f99c"),
    ),
    "food": (
        ("apple", "1f34e"),
        ("pear", "1f350"),
        ("tangerine", "1f34a"),
        ("lemon", "1f34b"),
        ("banana", "1f34c"),
        ("slice of watermelon", "1f349", "slices of watermelon"),
        ("bunch of grapes", "1f347", "bunches of grapes"),
        ("strawberry", "1f353", "strawberries"),
        ("pair of cherries", "1f352", "pairs of cherries"),
        ("pineapple", "1f34d"),
        ("avocado", "1f951"),
        ("tomato", "1f345", "tomatoes"),
        ("eggplant", "1f346"),
        ("carrot", "1f955"),
        ("ear of corn", "1f33d", "ears of corn"),
        ("mushroom", "1f344"),
        ("loaf of bread", "1f35e", "loaves of bread"),
        ("piece of cheese", "1f9c0", "pieces of cheese"),
        ("hamburger", "1f354"),
        ("box of french fries", "1f35f", "boxes of french fries"),
        ("slice of pizza", "1f355", "slices of pizza"),
        ("doughnut", "1f369"),
        ("cookie", "1f36a"),
        ("birthday cake", "1f382"),
        ("ice cream cone", "1f366"),
        ("lollipop", "1f36d"),
        ("cup of tea", "1f375", "cups of tea"),
        ("mug of beer", "1f37a", "mugs of beer"),
        ("glass of wine", "1f377", "glasses of wine"),
    ),
    "vehicle": (
        ("car", "1f697"),
        ("bus", "1f68c", "buses"),
        ("truck", "1f69a"),
        ("tractor", "1f69c"),
        ("bicycle", "1f6b2"),
        ("steam train", "1f682"),
        ("airplane", "2708-fe0f"),
        ("helicopter", "1f681"),
        ("rocket", "1f680"),
        ("sailboat", "26f5"),
        ("flying saucer", "1f6f8"),
        ("anchor", "2693"),
    ),
    "clothing": (
        ("t-shirt", "1f455"),
        ("dress", "1f457", "dresses"),
        ("top hat", "1f3a9"),
        ("cap", "1f9e2"),
        ("crown", "1f451"),
        ("sneaker", "1f45f"),
        ("high-heeled shoe", "1f460"),
        ("handbag", "1f45c"),
        ("backpack", "1f392"),
        ("scarf", "1f9e3", "scarves"),
        ("pair of glasses", "1f453", "pairs of glasses"),
        ("pair of jeans", "1f456", "pairs of jeans"),
        ("pair of socks", "1f9e6", "pairs of socks"),
    ),
    "object": (
        ("umbrella", "2602-fe0f"),
        ("balloon", "1f388"),
        ("book", "1f4d5"),
        ("candle", "1f56f-fe0f"),
        ("light bulb", "1f4a1"),
        ("alarm clock", "23f0"),
        ("camera", "1f4f7"),
        ("telephone", "260e-fe0f"),
        ("laptop", "1f4bb"),
        ("television", "1f4fa"),
        ("guitar", "1f3b8"),
        ("drum", "1f941"),
        ("trumpet", "1f3ba"),
        ("bell", "1f514"),
        ("gift", "1f381"),
        ("chair", "1fa91"),
        ("soccer ball", "26bd"),
        ("basketball", "1f3c0"),
        ("teddy bear", "1f9f8"),
        ("trophy", "1f3c6", "trophies"),
        ("gem", "1f48e"),
        ("bomb", "1f4a3"),
        ("bucket", "1faa3"),
        ("kite", "1fa81"),
    ),
    "tool": (
        ("key", "1f511"),
        ("padlock", "1f512"),
        ("hammer", "1f528"),
        ("pair of scissors", "2702-fe0f", "pairs of scissors"),
        ("pencil", "270f-fe0f"),
        ("magnet", "1f9f2"),
    ),
    "nature": (
        ("tree", "1f333"),
        ("pine tree", "1f332"),
        ("palm tree", "1f334"),
        ("cactus", "1f335", "cacti"),
        ("sunflower", "1f33b"),
        ("rose", "1f339"),
        ("tulip", "1f337"),
        ("maple leaf", "1f341", "maple leaves"),
        ("four-leaf clover", "1f340"),
        ("sun", "2600-fe0f"),
        ("crescent moon", "1f319"),
        ("star", "2b50"),
        ("rainbow", "1f308"),
        ("snowflake", "2744-fe0f"),
        ("snowman", "26c4", "snowmen"),
        ("flame", "1f525"),
        ("water droplet", "1f4a7"),
        ("lightning bolt", "26a1"),
        ("volcano", "1f30b", "volcanoes"),
        ("globe", "1f30d"),
    ),
    "building": (
        ("house", "1f3e0"),
        ("castle", "1f3f0"),
        ("tent", "26fa"),
    ),
    "face": (
        ("smiling face", "1f60a"),
        ("crying face", "1f62d"),
        ("angry face", "1f621"),
        ("face with sunglasses", "1f60e", "faces with sunglasses"),
        ("face with heart eyes", "1f60d", "faces with heart eyes"),
        ("ghost", "1f47b"),
        ("robot", "1f916"),
        ("alien", "1f47d"),
        ("skull", "1f480"),
        ("jack-o'-lantern", "1f383"),
    ),
    "symbol": (
        ("heart", "2764-fe0f"),
        ("musical note", "1f3b5"),
    ),
}

_RECOLOURABLE = frozenset(
    {
        "bird", "butterfly", "fish", "octopus", "whale", "crab", "turtle", "dinosaur", "pig", "cat",
        "apple", "mushroom", "pear",
        "car",
        "balloon", "book", "umbrella", "telephone", "guitar", "bell", "gift", "gem", "bucket", "chair", "trumpet",
        "t-shirt", "dress", "cap", "crown", "handbag", "backpack", "scarf", "high-heeled shoe", "pair of jeans",
        "key", "padlock", "magnet", "alarm clock", "teddy bear",
        "tulip", "rose", "maple leaf", "cactus", "star", "lightning bolt", "crescent moon", "water droplet",
        "four-leaf clover",
        "heart", "tent",
    }
)  # fmt: skip


def _build_table() -> tuple[Concept, ...]:
    concepts = []
    for category, rows in _ROWS.items():
        for name, code_point, *plural in rows:
            plural_name = plural[0] if plural else f"{name}s"
            concepts.append(Concept(name, code_point, category, plural_name, name in _RECOLOURABLE))
    missing = _RECOLOURABLE - {concept.name for concept in concepts}
    assert not missing, f"recolourable names outside the table: {sorted(missing)}"
    return tuple(concepts)


CONCEPTS: tuple[Concept, ...] = _build_table()
