"""The protocol of a metric of a candidate's images beside its scores: Frechet distance, diversity, memorisation.

A metric is one object in a file of its own. This file knows no benchmark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.sheet import SheetRow


@dataclass(frozen=True)
class MetricResult:
    """The result of a metric for one candidate.

    Attributes:
        values: Numbers and texts for the report.
        rows: Rows for the sheet.
    """

    values: Mapping[str, Any]
    rows: Sequence[SheetRow] = field(default_factory=tuple)


@runtime_checkable
class Metric(Protocol):
    """A metric of every candidate whose images are its own, which the baselines' aren't."""

    name: str
    """Its key in the report."""

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        """Measure a candidate's images."""
        ...


def short(value: float | int) -> float | int:
    """Round a float to six significant digits, as reports hold it."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
