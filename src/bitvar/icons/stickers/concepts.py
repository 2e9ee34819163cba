"""The concepts of the sticker set: how people call them, and who drew them.

`scripts/icons/concepts.py` writes the table.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).parent / "concepts.jsonl"


@dataclass(frozen=True)
class StickerConcept:
    """One kind of object.

    Attributes:
        name: Noun phrase without an article, such as "pair of scissors".
        plural: Phrase after a number, such as "pairs of scissors".
        synonyms: Other names.
        category: Group that it belongs to.
        recolourable: Whether the object looks sensible in every colour.
        drawings: Name of the drawing in the package of each artist who drew it, by the artist's key.
    """

    name: str
    plural: str
    synonyms: tuple[str, ...]
    category: str
    recolourable: bool
    drawings: dict[str, str]


@cache
def read_concepts() -> tuple[StickerConcept, ...]:
    """Read the table in the package."""
    rows = (json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return tuple(StickerConcept(**{**row, "synonyms": tuple(row["synonyms"])}) for row in rows)
