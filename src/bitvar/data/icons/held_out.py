"""What training never sees: artist x concept combinations, and composed prompts.

Both are fixed and don't depend on the seed of a build, so that figures of different builds compare. This file knows
nothing of pictures.
"""

from collections.abc import Sequence

import numpy as np

from bitvar.data.icons.requests import SceneRequest, Thing

_COMBINATION_SEED = 20240917
_SHARE_OF_COMBINATIONS = 0.1

_TWO = (
    ("cat", "dog"), ("apple", "banana"), ("car", "house"), ("fox", "mushroom"), ("panda", "umbrella"),
    ("bee", "sunflower"), ("robot", "balloon"), ("penguin", "snowflake"), ("guitar", "drum"), ("rocket", "star"),
)  # fmt: skip
_POSITION = (
    ("lion", "left", "tree"), ("cat", "right", "book"), ("bird", "above", "house"), ("crab", "below", "sun"),
    ("frog", "left", "cactus"), ("owl", "above", "pair of glasses"), ("cow", "right", "tractor"),
    ("airplane", "above", "castle"), ("fish", "below", "sailboat"), ("rabbit", "left", "carrot"),
    ("key", "right", "padlock"), ("crown", "above", "frog"), ("ghost", "left", "jack-o'-lantern"),
    ("gift", "below", "birthday cake"), ("snail", "right", "rose"),
)  # fmt: skip
_COUNT = (
    ("apple", 3), ("cat", 2), ("star", 4), ("fish", 3), ("balloon", 2), ("bee", 4), ("strawberry", 3), ("key", 2),
    ("dog", 4), ("tulip", 3), ("car", 2), ("cookie", 4), ("penguin", 3), ("heart", 2), ("light bulb", 4),
)  # fmt: skip
_COLOUR = (
    ("car", "green"), ("balloon", "purple"), ("fish", "red"), ("umbrella", "yellow"), ("t-shirt", "orange"),
    ("chair", "blue"), ("book", "pink"), ("heart", "green"), ("tent", "purple"), ("bird", "brown"),
    ("apple", "blue"), ("key", "pink"),
)  # fmt: skip
_COLOUR_PAIR = (
    ("car", "red", "balloon", "blue"), ("bird", "yellow", "heart", "purple"), ("book", "green", "star", "pink"),
    ("t-shirt", "red", "cap", "blue"), ("fish", "orange", "bucket", "green"), ("tulip", "purple", "handbag", "brown"),
    ("chair", "yellow", "umbrella", "red"), ("dress", "blue", "crown", "red"),
)  # fmt: skip


def held_out_prompts() -> tuple[tuple[str, tuple[Thing, ...], int, str | None], ...]:
    """The composed prompts kept for evaluation, each as (kind, things, count, relation)."""
    prompts: list[tuple[str, tuple[Thing, ...], int, str | None]] = []
    prompts += [("two", (Thing(first), Thing(second)), 1, None) for first, second in _TWO]
    prompts += [("position", (Thing(first), Thing(second)), 1, relation) for first, relation, second in _POSITION]
    prompts += [("count", (Thing(concept),), count, None) for concept, count in _COUNT]
    prompts += [("colour", (Thing(concept, colour),), 1, None) for concept, colour in _COLOUR]
    prompts += [
        ("colour_pair", (Thing(first, first_colour), Thing(second, second_colour)), 1, None)
        for first, first_colour, second, second_colour in _COLOUR_PAIR
    ]
    return tuple(prompts)


def composition_keys(things: Sequence[Thing], count: int) -> frozenset[tuple[object, ...]]:
    """What a scene combines, whatever its kind: its concept pair in any order, coloured objects, counted object."""
    keys: set[tuple[object, ...]] = set()
    if len(things) > 1:
        keys.add(("pair", *sorted(thing.concept for thing in things)))
    if count > 1:
        keys.add(("count", things[0].concept, count))
    keys.update(("colour", thing.concept, thing.colour) for thing in things if thing.colour is not None)
    return frozenset(keys)


def held_out_keys() -> frozenset[tuple[object, ...]]:
    """The keys that exclude a scene from training and validation.

    A held-out colour pair excludes its concept pair only: each of its coloured objects may be seen with others.
    """
    keys: set[tuple[object, ...]] = set()
    for kind, things, count, _ in held_out_prompts():
        own = composition_keys(things, count)
        keys |= {key for key in own if key[0] == "pair"} if kind == "colour_pair" else own
    return frozenset(keys)


def is_held_out(request: SceneRequest, keys: frozenset[tuple[object, ...]]) -> bool:
    """Whether the scene shows any combination in `keys`."""
    return not keys.isdisjoint(composition_keys(request.things, request.count))


def held_out_combinations(concepts: Sequence[str], artists: Sequence[str]) -> frozenset[tuple[str, str]]:
    """The (artist, concept) pairs of which training shows nothing.

    A tenth of all pairs, as many from each artist as can be, and at most one artist of any concept.
    """
    order = np.random.default_rng(_COMBINATION_SEED).permutation(len(concepts))
    wanted = round(_SHARE_OF_COMBINATIONS * len(concepts) * len(artists))
    chosen = order[: min(wanted, len(concepts))]
    return frozenset((artists[rank % len(artists)], concepts[int(index)]) for rank, index in enumerate(chosen))
