"""The fixed prompts of the stickers benchmark, each with what a correct image shows.

`scripts/icons/sticker_prompts.py` wrote `prompts.jsonl`. This module knows nothing about images or judges.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.icons.stickers.spec import Composition, Item, Scene

FILE: Final = Path(__file__).parent / "prompts.jsonl"
NOUNS: Final = Path(__file__).parent / "everyday_nouns.txt"
SPLITS: Final = ("seen", "unseen", "paraphrase", "open")
SKILLS: Final = (
    "single", "count", "colour", "position", "colour_pair", "size", "three", "four", "synonym", "one_style", "noun",
)  # fmt: skip


@dataclass(frozen=True)
class StickerPrompt:
    """A prompt and what a correct image shows.

    Attributes:
        id: Unique name, usable as a file name without its suffix.
        split: One of `SPLITS`. "seen": a composition that training may show, worded like its captions; "unseen": a
            composition that training never shows, or a thing that training shows by another artist only; "paraphrase":
            a composition that training may show, worded unlike any caption; "open": an everyday noun.
        skill: One of `SKILLS`; "noun" is that of the split "open".
        prompt: Text given to the model.
        composition: What the text asks for. Its layout is "beside" or "group" unless the text says where things are.
        artist: Artist of the real image; the text may name another style, or none.
    """

    id: str
    split: str
    skill: str
    prompt: str
    composition: Composition
    artist: str

    @property
    def scene(self) -> Scene:
        """The scene of the real image."""
        return self.composition.by(self.artist)


def read_prompts() -> tuple[StickerPrompt, ...]:
    """Read the prompts in the package, in the order of `SPLITS` and `SKILLS`."""
    return tuple(from_row(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines())


def everyday_nouns() -> tuple[str, ...]:
    """Read the names of the concepts of the split "open"; the file says how they were chosen."""
    lines = [line for line in NOUNS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return tuple(name.strip() for line in lines for name in line.partition(":")[2].split(","))


def to_row(prompt: StickerPrompt) -> dict[str, Any]:
    """Convert a prompt to the JSON object of its line."""
    return asdict(prompt)


def from_row(row: Mapping[str, Any]) -> StickerPrompt:
    """Convert the JSON object of a line back to a prompt: the inverse of `to_row`."""
    composition = dict(row["composition"])
    composition["items"] = tuple(Item(**item) for item in composition["items"])
    return StickerPrompt(**{**row, "composition": Composition(**composition)})
