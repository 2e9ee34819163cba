"""The fixed prompts of the scenes benchmark, each with the scene that a correct image shows.

`scripts/icons/prompts.py` wrote `prompts.jsonl`. This module knows nothing about images or judges.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec

FILE: Final = Path(__file__).parent / "prompts.jsonl"
SPLITS: Final = ("seen", "unseen", "paraphrase", "held_out_style")
SKILLS: Final = ("single", "two", "count", "colour", "position", "colour_pair", "style")


@dataclass(frozen=True)
class ScenePrompt:
    """A prompt and the scene that a correct image shows.

    Attributes:
        id: Unique name, usable as a file name without its suffix.
        split: One of `SPLITS`. "seen": a composition that training may show, worded like its captions; "unseen": a
            composition that training never shows; "paraphrase": a composition that training may show, worded unlike
            any caption; "held_out_style": an object drawn by an artist whose drawing of it training never shows.
        skill: One of `SKILLS`; decides which rules judge the image.
        prompt: Text given to the model.
        spec: Scene that the text asks for. Its artist counts only where the text names the style; the image in the set
            is always by that artist.
        names_style: Whether the text names the artist's style.
    """

    id: str
    split: str
    skill: str
    prompt: str
    spec: SceneSpec
    names_style: bool


def read_prompts() -> tuple[ScenePrompt, ...]:
    """Read the prompts in the package, in the order of `SPLITS` and `SKILLS`."""
    return tuple(from_row(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines())


def to_row(prompt: ScenePrompt) -> dict[str, Any]:
    """Convert a prompt to the JSON object of its line."""
    row = asdict(prompt)
    del row["spec"]["centred"]
    return row


def from_row(row: Mapping[str, Any]) -> ScenePrompt:
    """Convert the JSON object of a line back to a prompt: the inverse of `to_row`."""
    spec = dict(row["spec"])
    spec["objects"] = tuple(ObjectSpec(**item) for item in spec["objects"])
    return ScenePrompt(**{**row, "spec": SceneSpec(**spec)})
