"""From images to verdicts: a judge looks at every image once, and says whether it shows what its prompt asks for.

This file knows of the judge only what `Jury` says.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bitvar.evaluation.generation.images import Shown
from bitvar.icons.dataset.prompts import ScenePrompt
from bitvar.icons.dataset.scene_spec import SceneRequest
from bitvar.imaging.batches import in_batches

_LOOKED_AT_ONCE: Final = 32
_SHUFFLE_SEED: Final = 0


@runtime_checkable
class Verdict(Protocol):
    """Of one image and one request."""

    @property
    def right(self) -> bool: ...

    @property
    def reasons(self) -> tuple[str, ...]:
        """In words, what is wrong; empty where it is right."""
        ...


@dataclass(frozen=True)
class Jury:
    """Who judges.

    Attributes:
        name, sha256: of the judge, and which one exactly.
        look: what it sees on images in [-1, 1], square and of one size.
        give_verdict: whether what it saw is what a request asks for, by the rules of a skill.
        figures: its own errors on real images, as they were measured when it was made.
        accuracy: of these by skill, how often it is right: of `true_claims` and of `false_claims` about real images.
    """

    name: str
    sha256: str
    look: Callable[[Float[Tensor, "b 3 H W"]], Sequence[Any]]
    give_verdict: Callable[[Any, SceneRequest, str], Verdict]
    figures: Mapping[str, Any]
    accuracy: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Case:
    """An image, and the prompt that it is judged by, which may be another than it was made for."""

    shown: Shown
    prompt: ScenePrompt


class Onlooker:
    """Judges cases. It remembers what was seen on the images it was last asked about: shuffled prompts cost no look.

    Args:
        jury: who looks and judges.
        root: folder that the names of images are relative to where they lie in it.
    """

    def __init__(self, jury: Jury, root: Path) -> None:
        self.jury, self.root = jury, root
        self._sights: dict[Path, Any] = {}

    def judge(self, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
        """A line for each case, in order: `id`, `split`, `skill`, `prompt`, `seed`, `image`, `right`, `reasons`."""
        shown = {case.shown.path: case.shown for case in cases}
        if not shown.keys() <= self._sights.keys():
            self._sights = dict(_look(self.jury, list(shown.values())))
        for case in cases:
            prompt, path = case.prompt, case.shown.path
            verdict = self.jury.give_verdict(self._sights[path], prompt.request, prompt.skill)
            yield {
                "id": prompt.id,
                "split": prompt.split,
                "skill": prompt.skill,
                "prompt": prompt.prompt,
                "seed": case.shown.seed,
                "image": str(path.relative_to(self.root) if path.is_relative_to(self.root) else path),
                "right": verdict.right,
                "reasons": list(verdict.reasons),
            }


def _look(jury: Jury, shown: Sequence[Shown]) -> Iterator[tuple[Path, Any]]:
    """Every image, looked at once, among others of its size."""
    batches = in_batches((each.open() for each in shown), _LOOKED_AT_ONCE)
    sights = chain.from_iterable(jury.look(images) for images in batches)
    yield from zip((each.path for each in shown), sights, strict=True)


def own_cases(shown: Sequence[Shown]) -> list[Case]:
    """Every image by the prompt that it was made for."""
    return [Case(each, each.prompt) for each in shown]


def shuffled_cases(shown: Sequence[Shown]) -> list[Case]:
    """Every image by another prompt of the same split and skill: what a model gets that draws well, but anything.

    A skill of which a split has one prompt only is left out.
    """
    prompts = list({each.prompt.id: each.prompt for each in shown}.values())
    rng = np.random.default_rng(_SHUFFLE_SEED)
    other: dict[str, ScenePrompt] = {}
    for _, group in groupby(prompts, key=lambda prompt: (prompt.split, prompt.skill)):
        alike = list(group)
        order = [alike[i] for i in rng.permutation(len(alike))]
        if len(order) > 1:
            other |= {before.id: after for before, after in zip(order, order[1:] + order[:1], strict=True)}
    return [Case(each, other[each.prompt.id]) for each in shown if each.prompt.id in other]


def read_verdicts(path: Path) -> list[dict[str, Any]]:
    """The lines that `Onlooker.judge` gave."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
