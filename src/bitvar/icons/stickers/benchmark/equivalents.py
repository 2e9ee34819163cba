"""Concepts that the judge takes for each other: drawings of them can't be told apart, or people call them the same.

The list is fixed, whatever a judge confuses.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_GROUPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "one animal, as a head, whole, or in another pose",
        (
            "dog|standing dog|sitting dog|jumping dog|sniffing dog", "cat|standing cat", "cow|standing cow",
            "pig|standing pig", "monkey|sitting monkey", "mouse|small mouse", "rabbit|sitting rabbit",
            "horse|horse head", "elephant|elephant head", "wolf|wolf head", "eagle|eagle head", "turtle|sea turtle",
            "whale|blue whale|sperm whale", "dinosaur|long-necked dinosaur",
        ),
    ),
    ("one animal with a hump or two", ("camel|dromedary",)),
    (
        "one thing with a face or without",
        ("sun|sun with a face", "crescent moon|crescent moon with a face", "full moon|full moon with a face"),
    ),
    ("one thing or two of it", ("mug of beer|two beer mugs", "chain|chain link")),
    (
        "one thing by two names",
        (
            "wrench|spanner", "paperclip|paper clip", "pair of glasses|spectacles", "pair of sunglasses|dark glasses",
            "log|wooden log", "nest with eggs|nest of eggs", "pot of honey|honey jar", "knight's helmet|knight helmet",
            "tank|army tank", "camera|photo camera", "kimono|kimono robe", "pair of gloves|pair of winter gloves",
            "potion|round potion", "fork and knife|knife and fork of silver",
        ),
    ),
    (
        "a thing and a kind of it",
        (
            "car|small car|blue SUV", "truck|pickup truck", "bus|minibus", "steam train|old locomotive",
            "sailboat|small sailboat", "key|old key", "axe|wood axe", "saw|hand saw", "hammer|toy hammer",
            "dagger|plain dagger", "top hat|tall hat|magician's hat", "chair|wooden chair", "door|wooden door",
            "couch with a lamp|plain sofa", "piano|grand piano", "cactus|cactus in a pot", "star|glowing star",
            "teapot|teapot with leaves", "rocket|spaceship", "pair of jeans|pair of trousers",
        ),
    ),
)  # fmt: skip


def _collect() -> Mapping[str, frozenset[str]]:
    groups = [frozenset(names.split("|")) for _, listed in _GROUPS for names in listed]
    return MappingProxyType({name: group for group in groups for name in group})


EQUIVALENTS: Final[Mapping[str, frozenset[str]]] = _collect()
"""The group of each concept that has equivalents, itself among them."""


def equivalents_of(concept: str) -> frozenset[str]:
    """Return the concepts that count as this one, itself among them."""
    return EQUIVALENTS.get(concept, frozenset({concept}))
