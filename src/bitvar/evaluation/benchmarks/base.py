"""The protocol of a benchmark: prompts, a score for each image, and a table. A benchmark is one file.

`evaluation.generation` generates the images, adds baselines, resumes, measures and reports for any `Benchmark`. This
file knows no model, no network and no particular benchmark.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, Location, RefusedError, decode_image


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt of a benchmark. It holds no tensors.

    Attributes:
        id: Unique name within the benchmark, usable as a file name without its suffix. Seeds are derived from it.
        text: Text given to the model.
        split: Group of prompts that is reported apart, such as "seen"; one name for all if there are no groups.
        skill: Ability that the prompt tests, such as "count"; one name for all if there are no skills.
        payload: Whatever the benchmark needs to score an image of this prompt: a frozen dataclass or JSON values.
    """

    id: str
    text: str
    split: str
    skill: str
    payload: Any = None


@dataclass(frozen=True)
class GeneratedImage:
    """An image file and the prompt that it was made for.

    Attributes:
        prompt: Prompt that the image was made for.
        seed: Number of the image among those of its prompt, from 0.
        path: Image file.
    """

    prompt: EvalPrompt
    seed: int
    path: Path

    def open(self) -> UInt8[np.ndarray, "H W 3"]:
        """Read the pixels, 0..255.

        Raises:
            UsageError: for a file that can't be used.
        """
        try:
            limits = ImageLimits(min_side=8)
            return np.asarray(decode_image(Location(self.path).read(max_bytes=limits.max_bytes), limits))
        except RefusedError as error:
            raise UsageError(f"Can't read {self.path}.", str(error), "make that image again") from None


@dataclass(frozen=True)
class Score:
    """The score of one image, as `judgements/*.jsonl` stores it.

    Attributes:
        id, split, skill, prompt: Those of the prompt that the image is scored by; `prompt` is its text.
        seed: Number of the image among those of the prompt that it was made for.
        image: Path of the image file.
        score: Value that is averaged: 1 or 0 from a judge, any number from a scorer.
        correct: Decision of a judge; None if the benchmark gives a score without a decision.
        reasons: What lowers the score, in words.
        details: Further JSON values of this image, such as answers to single questions.
    """

    id: str
    split: str
    skill: str
    prompt: str
    seed: int
    image: str
    score: float
    correct: bool | None = None
    reasons: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Convert the score to the JSON object of its line."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Score":
        """Convert the JSON object of a line back to a score: the inverse of `to_row`."""
        return cls(**{**row, "reasons": tuple(row["reasons"])})


@dataclass(frozen=True)
class EvalItem:
    """An image and the prompt to score it by, which in a baseline is another than the image was made for.

    Attributes:
        image: Image to score.
        prompt: Prompt to score it by.
    """

    image: GeneratedImage
    prompt: EvalPrompt

    def judged(self, correct: bool, reasons: Sequence[str] = (), **details: Any) -> Score:
        """Score the image by a judge's decision."""
        return self._score(float(correct), correct, reasons, details)

    def graded(self, score: float, reasons: Sequence[str] = (), **details: Any) -> Score:
        """Score the image by a number."""
        return self._score(score, None, reasons, details)

    def _score(self, score: float, correct: bool | None, reasons: Sequence[str], details: Mapping[str, Any]) -> Score:
        prompt, image = self.prompt, self.image
        return Score(
            id=prompt.id,
            split=prompt.split,
            skill=prompt.skill,
            prompt=prompt.text,
            seed=image.seed,
            image=str(image.path),
            score=score,
            correct=correct,
            reasons=tuple(reasons),
            details=details,
        )


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        split, skill: Prompts that the line sums up.
        prompts, images: Number of prompts and of images.
        score: Mean over the prompts of the mean score of their images.
        low, high: 95 % interval of the score; None if there are too few prompts to tell.
    """

    split: str
    skill: str
    prompts: int
    images: int
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Table:
    """The result of a benchmark for one candidate.

    Attributes:
        rows: Lines in the order in which they are reported.
        unit: "%" if the scores are shares of correct images, which are printed in percent; "" for plain numbers.
    """

    rows: Sequence[Row]
    unit: Literal["%", ""] = "%"


@dataclass(frozen=True)
class JudgeInfo:
    """The network or rule that scores images. Scores compare only if name and digest agree.

    Attributes:
        name: Name for reports.
        sha256: Digest of everything that decides its scores; "" if the code alone does.
        accuracy: Error rates by skill: `true_positive_rate` and `true_negative_rate` on images of known content.
        metrics: All measurements of its own errors.
    """

    name: str
    sha256: str = ""
    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Benchmark(Protocol):
    """Prompts, and a way to score images of them."""

    name: str
    """Name for reports and settings."""

    judge: JudgeInfo
    """The judge that scores the images."""

    def prompts(self) -> Sequence[EvalPrompt]:
        """List all prompts, in a fixed order."""
        ...

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        """Score every item, in order. The same images may come again with other prompts."""
        ...

    def summarise(self, scores: Sequence[Score]) -> Table:
        """Sum up the scores of one candidate; `intervals.by_skill` fits most benchmarks."""
        ...


@runtime_checkable
class HasReferences(Protocol):
    """A benchmark with real images, which show the ceiling that its judge sets."""

    def reference_images(self, prompts: Sequence[EvalPrompt]) -> Sequence[GeneratedImage]:
        """Find the real image of each prompt."""
        ...


def prompts_digest(prompts: Sequence[EvalPrompt]) -> str:
    """Compute a SHA-256 over all fields of the prompts: results compare where it is the same."""
    rows = [json.dumps(asdict(prompt), sort_keys=True, default=str) for prompt in prompts]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
