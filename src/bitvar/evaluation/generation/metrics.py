"""The protocol of the metrics beside a benchmark's scores: Frechet distance, diversity, memorisation.

Each metric is in a module of its own, and works for any benchmark.
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
    """A metric of every candidate except the baselines, whose images weren't made for their prompts."""

    name: str
    """Its key in the report."""

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        """Measure a candidate's images."""
        ...


def short(value: float | int) -> float | int:
    """Round a float to six significant digits for reports."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
