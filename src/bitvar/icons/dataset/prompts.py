"""The fixed prompts that models of the icon set are judged by, each with what a right image shows.

`scripts/icons/prompts.py` wrote the file. This file knows nothing of images or judges.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.icons.dataset.scene_spec import SceneRequest, Thing

FILE: Final = Path(__file__).parent / "prompts.jsonl"
SPLITS: Final = ("seen", "unseen", "paraphrase", "held_out_style")
SKILLS: Final = ("single", "two", "count", "colour", "position", "colour_pair", "style")


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt, and what a right image shows.

    Attributes:
        id: unique, and a file name without its suffix.
        split: of `SPLITS`. "seen": a composition that training may show, worded as its captions are; "unseen": one
            that it never shows; "paraphrase": one that it may show, in a wording that its captions never have;
            "held_out_style": a thing by an artist of whom training never shows it.
        skill: of `SKILLS`: what is judged.
        prompt: the words.
        request: what they ask for. Its artist counts where the style is named; the set's image is by it always.
        names_style: whether the words name the artist's style.
    """

    id: str
    split: str
    skill: str
    prompt: str
    request: SceneRequest
    names_style: bool


def read_prompts() -> tuple[ScenePrompt, ...]:
    """The prompts in the package, in the order of `SPLITS` and `SKILLS`."""
    return tuple(from_row(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines())


def prompts_digest() -> str:
    """The SHA-256 of the file: figures compare where it is the same."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def to_row(prompt: ScenePrompt) -> dict[str, Any]:
    """The prompt as an object of its line."""
    row = asdict(prompt)
    del row["request"]["centred"]
    return row


def from_row(row: Mapping[str, Any]) -> ScenePrompt:
    """The prompt whose `to_row` this is."""
    request = dict(row["request"])
    request["things"] = tuple(Thing(**thing) for thing in request["things"])
    return ScenePrompt(**{**row, "request": SceneRequest(**request)})
