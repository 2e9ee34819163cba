"""The judge in the package with its measured error rates, and a cache of its detections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.config import read_json
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import GeneratedImage, JudgeInfo
from bitvar.icons.benchmark.judge import FOLDER, SceneJudge
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.prompts import SKILLS
from bitvar.icons.dataset.scene_spec import SceneSpec
from bitvar.imaging.batches import in_batches
from bitvar.weights.digests import MANIFEST, digest

METRICS: Final = "metrics.json"
_BATCH: Final = 32


@runtime_checkable
class Decision(Protocol):
    """The decision about one image and one scene."""

    @property
    def correct(self) -> bool: ...

    @property
    def reasons(self) -> tuple[str, ...]:
        """Errors of the image in words; empty if it is correct."""
        ...


@dataclass(frozen=True)
class Judge:
    """A detector and the rules that decide by its detections.

    Attributes:
        info: Name, digest and error rates.
        detect: Detects objects on images in [-1, 1], square and of one size.
        decide: Decides by the rules of a skill whether detections show a scene.
    """

    info: JudgeInfo
    detect: Callable[[Float[Tensor, "b 3 H W"]], Sequence[Any]]
    decide: Callable[[Any, SceneSpec, str], Decision]


class CachedJudge:
    """A judge that keeps the detections on the images it was last asked about, so that other prompts cost nothing.

    Args:
        judge: Judge to ask.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._detections: dict[Path, Any] = {}

    def detect(self, images: Sequence[GeneratedImage]) -> Mapping[Path, Any]:
        """Return the detections on images by their paths; every file goes through the network once."""
        by_path = {image.path: image for image in images}
        if not by_path.keys() <= self._detections.keys():
            batches = in_batches((open_square(image) for image in by_path.values()), _BATCH)
            found = chain.from_iterable(self.judge.detect(batch) for batch in batches)
            self._detections = dict(zip(by_path, found, strict=True))
        return self._detections


def open_square(image: GeneratedImage) -> UInt8[np.ndarray, "side side 3"]:
    """Read the pixels of a square image, 0..255.

    Raises:
        UsageError: for a file that can't be used, or an image that isn't square.
    """
    pixels = image.open()
    height, width = pixels.shape[:2]
    if width != height:
        why = f"it has {width} x {height} pixels; scenes are square"
        raise UsageError(f"Can't judge {image.path}.", why, "give square images")
    return pixels


def load_judge(device: torch.device | str) -> Judge:
    """Load the judge in the package.

    Raises:
        WeightsError: if a file of it is missing or altered.
    """
    judge = SceneJudge.load(device=device)
    metrics = read_json(FOLDER / METRICS)
    accuracy = {skill: metrics["by_kind"][skill] for skill in SKILLS if skill in metrics["by_kind"]}
    info = JudgeInfo(FOLDER.name, digest(FOLDER / MANIFEST), accuracy, metrics)
    return Judge(info, judge.detect, judge_scene)
