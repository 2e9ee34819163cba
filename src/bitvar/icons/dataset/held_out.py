"""The scenes that training never sees: artist x concept combinations, and composed prompts.

Both are fixed and don't depend on the seed of a build, so that results on different builds can be compared. This
module knows nothing about images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec

_COMBINATION_SEED = 20240917
_SHARE_OF_COMBINATIONS = 0.1

# Forty of each kind. A concept loses at most one of three counts, one of eight colours and one of ten backgrounds, and
# never a colour or background that is its own. Backgrounds, relations and colours are held out equally often;
# every artist's drawing stands out against its held-out background.
_TWO = (
    ("cat", "dog"), ("apple", "banana"), ("car", "house"), ("fox", "mushroom"), ("panda", "umbrella"),
    ("bee", "sunflower"), ("robot", "balloon"), ("penguin", "snowflake"), ("guitar", "drum"), ("rocket", "star"),
    ("tiger", "pineapple"), ("zebra", "palm tree"), ("owl", "crescent moon"), ("whale", "anchor"),
    ("octopus", "cup of tea"), ("ladybug", "maple leaf"), ("giraffe", "bus"), ("flamingo", "lemon"),
    ("mouse", "piece of cheese"), ("bear", "slice of pizza"), ("unicorn", "rainbow"), ("dinosaur", "volcano"),
    ("chicken", "ear of corn"), ("koala", "teddy bear"), ("tomato", "eggplant"), ("pear", "slice of watermelon"),
    ("hamburger", "box of french fries"), ("mug of beer", "soccer ball"), ("ice cream cone", "sneaker"),
    ("truck", "tent"), ("helicopter", "pine tree"), ("bicycle", "top hat"), ("steam train", "snowman"),
    ("flying saucer", "alien"), ("camera", "trophy"), ("laptop", "telephone"), ("hammer", "magnet"),
    ("pencil", "light bulb"), ("skull", "candle"), ("trumpet", "musical note"),
)  # fmt: skip
_BACKGROUND = (
    ("panda", "red"), ("whale", "red"), ("snowman", "red"), ("pine tree", "red"), ("elephant", "orange"),
    ("gem", "orange"), ("dinosaur", "orange"), ("robot", "orange"), ("koala", "yellow"), ("eggplant", "yellow"),
    ("television", "yellow"), ("penguin", "yellow"), ("pig", "green"), ("strawberry", "green"), ("basketball", "green"),
    ("drum", "green"), ("lion", "blue"), ("crab", "blue"), ("banana", "blue"), ("maple leaf", "blue"),
    ("cat", "purple"), ("lemon", "purple"), ("cactus", "purple"), ("tractor", "purple"), ("pineapple", "pink"),
    ("frog", "pink"), ("hammer", "pink"), ("bus", "pink"), ("rabbit", "brown"), ("snowflake", "brown"),
    ("flamingo", "brown"), ("sailboat", "brown"), ("hamburger", "black"), ("sunflower", "black"), ("apple", "black"),
    ("kite", "black"), ("fox", "grey"), ("cookie", "grey"), ("rose", "grey"), ("tomato", "grey"),
)  # fmt: skip
_COUNT = (
    ("apple", 3), ("cat", 2), ("star", 4), ("fish", 3), ("balloon", 2), ("bee", 4), ("strawberry", 3), ("key", 2),
    ("dog", 4), ("tulip", 3), ("car", 2), ("cookie", 4), ("penguin", 3), ("heart", 2), ("light bulb", 4), ("owl", 2),
    ("hamburger", 2), ("crown", 2), ("rocket", 2), ("sailboat", 2), ("teddy bear", 2), ("cactus", 2), ("lemon", 2),
    ("frog", 3), ("elephant", 3), ("umbrella", 3), ("slice of pizza", 3), ("bus", 3), ("candle", 3), ("mushroom", 3),
    ("ghost", 3), ("bell", 3), ("butterfly", 4), ("carrot", 4), ("cup of tea", 4), ("gift", 4), ("sneaker", 4),
    ("snowflake", 4), ("pencil", 4), ("turtle", 4),
)  # fmt: skip
_COLOUR = (
    ("car", "green"), ("balloon", "purple"), ("fish", "red"), ("umbrella", "yellow"), ("t-shirt", "orange"),
    ("chair", "blue"), ("book", "pink"), ("heart", "green"), ("tent", "purple"), ("bird", "brown"), ("apple", "blue"),
    ("key", "pink"), ("cat", "green"), ("octopus", "green"), ("crown", "green"), ("dinosaur", "purple"),
    ("pear", "purple"), ("telephone", "purple"), ("whale", "red"), ("turtle", "red"), ("bucket", "red"),
    ("crescent moon", "red"), ("pig", "yellow"), ("dress", "yellow"), ("backpack", "yellow"),
    ("four-leaf clover", "yellow"), ("gem", "orange"), ("padlock", "orange"), ("cactus", "orange"),
    ("water droplet", "orange"), ("rose", "blue"), ("teddy bear", "blue"), ("lightning bolt", "blue"),
    ("guitar", "pink"), ("crab", "pink"), ("alarm clock", "pink"), ("star", "brown"), ("scarf", "brown"),
    ("trumpet", "brown"), ("magnet", "brown"),
)  # fmt: skip
_POSITION = (
    ("lion", "left", "tree"), ("cat", "right", "book"), ("bird", "above", "house"), ("crab", "below", "sun"),
    ("frog", "left", "cactus"), ("owl", "above", "pair of glasses"), ("cow", "right", "tractor"),
    ("airplane", "above", "castle"), ("fish", "below", "sailboat"), ("rabbit", "left", "carrot"),
    ("key", "right", "padlock"), ("crown", "above", "frog"), ("ghost", "left", "jack-o'-lantern"),
    ("gift", "below", "birthday cake"), ("snail", "right", "rose"), ("elephant", "left", "strawberry"),
    ("bus", "left", "globe"), ("teddy bear", "left", "drum"), ("sneaker", "left", "basketball"),
    ("avocado", "left", "tomato"), ("robot", "left", "television"), ("monkey", "right", "palm tree"),
    ("dog", "right", "chair"), ("truck", "right", "cactus"), ("backpack", "right", "umbrella"),
    ("piece of cheese", "right", "loaf of bread"), ("alarm clock", "right", "cup of tea"),
    ("helicopter", "above", "volcano"), ("kite", "above", "tent"), ("butterfly", "above", "tulip"),
    ("star", "above", "snowman"), ("top hat", "above", "penguin"), ("lightning bolt", "above", "bicycle"),
    ("octopus", "below", "anchor"), ("mouse", "below", "glass of wine"), ("turtle", "below", "sunflower"),
    ("slice of watermelon", "below", "bunch of grapes"), ("bomb", "below", "flame"),
    ("pair of socks", "below", "t-shirt"), ("skull", "below", "crescent moon"),
)  # fmt: skip
_COLOUR_PAIR = (
    ("car", "red", "balloon", "blue"), ("bird", "yellow", "heart", "purple"), ("book", "green", "star", "pink"),
    ("t-shirt", "red", "cap", "blue"), ("fish", "orange", "bucket", "green"), ("tulip", "purple", "handbag", "brown"),
    ("chair", "yellow", "umbrella", "red"), ("dress", "blue", "crown", "red"), ("cat", "orange", "gift", "purple"),
    ("pig", "green", "apple", "yellow"), ("whale", "pink", "umbrella", "brown"), ("octopus", "yellow", "bell", "blue"),
    ("turtle", "purple", "mushroom", "pink"), ("crab", "brown", "pear", "red"),
    ("dinosaur", "pink", "cactus", "yellow"), ("butterfly", "orange", "rose", "purple"),
    ("car", "brown", "tent", "green"), ("backpack", "green", "pair of jeans", "red"),
    ("scarf", "pink", "high-heeled shoe", "orange"), ("telephone", "yellow", "alarm clock", "brown"),
    ("guitar", "blue", "trumpet", "pink"), ("alarm clock", "orange", "padlock", "green"),
    ("magnet", "purple", "lightning bolt", "pink"), ("gem", "green", "crown", "purple"),
    ("teddy bear", "purple", "balloon", "orange"), ("maple leaf", "yellow", "four-leaf clover", "brown"),
    ("crescent moon", "blue", "star", "green"), ("water droplet", "pink", "tulip", "orange"),
    ("t-shirt", "green", "chair", "brown"), ("dress", "green", "handbag", "pink"), ("cap", "brown", "fish", "yellow"),
    ("bucket", "blue", "crab", "orange"), ("bird", "purple", "pear", "orange"), ("book", "red", "key", "brown"),
    ("heart", "orange", "padlock", "blue"), ("cat", "red", "chair", "pink"), ("pig", "blue", "tent", "yellow"),
    ("gift", "red", "bell", "brown"), ("teddy bear", "red", "telephone", "blue"),
    ("car", "yellow", "butterfly", "purple"),
)  # fmt: skip


@dataclass(frozen=True)
class Composition:
    """A scene without its artist; the fields are those of `SceneSpec`."""

    kind: str
    objects: tuple[ObjectSpec, ...]
    count: int = 1
    relation: str | None = None
    background: str = "white"

    def by(self, artist: str) -> SceneSpec:
        """Return the scene as drawn by an artist."""
        return SceneSpec(self.kind, artist, self.objects, self.count, self.relation, self.background)


def held_out_prompts() -> tuple[Composition, ...]:
    """List the compositions kept for evaluation."""
    prompts = [Composition("two", (ObjectSpec(first), ObjectSpec(second))) for first, second in _TWO]
    prompts += [Composition("background", (ObjectSpec(concept),), background=colour) for concept, colour in _BACKGROUND]
    prompts += [
        Composition("position", (ObjectSpec(first), ObjectSpec(second)), relation=relation)
        for first, relation, second in _POSITION
    ]
    prompts += [Composition("count", (ObjectSpec(concept),), count) for concept, count in _COUNT]
    prompts += [Composition("colour", (ObjectSpec(concept, colour),)) for concept, colour in _COLOUR]
    prompts += [
        Composition("colour_pair", (ObjectSpec(first, first_colour), ObjectSpec(second, second_colour)))
        for first, first_colour, second, second_colour in _COLOUR_PAIR
    ]
    return tuple(prompts)


def composition_keys(spec: SceneSpec | Composition) -> frozenset[tuple[object, ...]]:
    """List the combinations that a scene shows, whatever its kind.

    They are its pair of concepts in any order, its coloured objects, its counted object, and its objects on a coloured
    background.
    """
    objects = spec.objects
    keys: set[tuple[object, ...]] = set()
    if len(objects) > 1:
        keys.add(("pair", *sorted(item.concept for item in objects)))
    if spec.count > 1:
        keys.update(("count", item.concept, spec.count) for item in objects)
    if spec.background != "white":
        keys.update(("background", item.concept, spec.background) for item in objects)
    keys.update(("colour", item.concept, item.colour) for item in objects if item.colour is not None)
    return frozenset(keys)


def held_out_keys() -> frozenset[tuple[object, ...]]:
    """List the combinations that exclude a scene from training and validation.

    A held-out colour pair excludes its pair of concepts only: each of its coloured objects may appear with others.
    """
    keys: set[tuple[object, ...]] = set()
    for prompt in held_out_prompts():
        own = composition_keys(prompt)
        keys |= {key for key in own if "pair" in key} if prompt.kind == "colour_pair" else own
    return frozenset(keys)


def is_held_out(spec: SceneSpec | Composition, keys: frozenset[tuple[object, ...]]) -> bool:
    """Tell whether the scene shows any combination in `keys`."""
    return not keys.isdisjoint(composition_keys(spec))


def held_out_combinations(concepts: Sequence[str], artists: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Choose the (artist, concept) pairs that training never shows.

    They are a tenth of all pairs, as evenly over the artists as possible, with at most one artist for any concept.
    """
    order = np.random.default_rng(_COMBINATION_SEED).permutation(len(concepts))
    wanted = round(_SHARE_OF_COMBINATIONS * len(concepts) * len(artists))
    chosen = order[: min(wanted, len(concepts))]
    return frozenset((artists[rank % len(artists)], concepts[int(index)]) for rank, index in enumerate(chosen))
