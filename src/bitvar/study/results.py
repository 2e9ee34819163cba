"""What a study knows of a finished run: its size, its compute, its losses, and the scores of its images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from bitvar.costs.flops import forward_flops, num_parameters
from bitvar.errors import UsageError
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.metrics_log import read_metrics
from bitvar.training.export import pick_checkpoint

SCORES: Final = {
    "seen": "correct, seen prompts, %",
    "unseen": "correct, unseen prompts, %",
    "paraphrase": "correct, paraphrases, %",
    "frechet": "Frechet distance",
}
"""Scores of images that a report may have, with their titles."""

Scores: TypeAlias = tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]
"""Metrics of each label, and their intervals."""

_TEXT_TOKENS: Final = 16
"""Tokens of a caption that the compute of a step is counted with."""

_PASSES: Final = 3
"""Forward passes that a step of training costs: one forward, and a backward of two."""


@dataclass(frozen=True)
class StudyRow:
    """One finished run.

    Attributes:
        label: Name of the run.
        parameters: Number of parameters of the transformer, including its text adapter.
        bits: Number of bits of a token.
        samples: Number of training samples seen.
        flops: Floating-point operations of training, by arithmetic (`costs/flops.py`).
        metrics: Metrics by name: "loss" in nats a bit, "accuracy" and shares of correct images in %, and others.
        intervals: 95 % intervals of those metrics that have one.
        arguments: Arguments of the recipe that vary in the study.
    """

    label: str
    parameters: int
    bits: int
    samples: int
    flops: float
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    @property
    def nats_a_token(self) -> float:
        """Loss of a whole token."""
        return self.metrics["loss"] * self.bits

    def scored(
        self, metrics: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    ) -> "StudyRow":
        """Return this row with the scores that a report has of its label, if any."""
        return replace(
            self,
            metrics={**self.metrics, **metrics.get(self.label, {})},
            intervals={**self.intervals, **intervals.get(self.label, {})},
        )

    def to_row(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def read_run(label: str, run: Path, arguments: Mapping[str, str] | None = None) -> StudyRow:
    """Read a finished run of a transformer.

    Losses and accuracies are of the whole validation split at the run's end, with averaged weights and no flips.

    Args:
        label: Name of the run.
        run: Folder of the run.
        arguments: Arguments that vary.

    Raises:
        UsageError: If it is no such run, or not finished.
    """
    data = json.loads((pick_checkpoint(run) / "config.json").read_text(encoding="utf-8"))
    config = TransformerTraining.parse(data, source=str(run))
    samples = config.optimization.steps * config.optimization.batch_size
    schedule = config.model.all_schedules()[0]
    forward = forward_flops(config.model, schedule, text_tokens=min(_TEXT_TOKENS, config.model.max_text_tokens))
    return StudyRow(
        label,
        num_parameters(config.model),
        config.model.bits,
        samples,
        _PASSES * forward.total * samples,
        last_validation(run, config.optimization.steps),
        arguments=dict(arguments or {}),
    )


def last_validation(run: Path, steps: int) -> dict[str, float]:
    """Read loss and accuracy of a run's last validation, the accuracies in %.

    Raises:
        UsageError: If the last validation was before the last step.
    """
    validation = read_metrics(run).get("validation", {})
    step = validation.get("loss", [(0, 0.0)])[-1][0]
    if step < steps:
        why = f"its last validation was at step {step} of {steps}"
        raise UsageError(f"{run} is not finished.", why, "finish it first")
    found = {name: points[-1][1] for name, points in validation.items() if name.split("/")[0] in ("loss", "accuracy")}
    return {name: 100 * value if name.startswith("accuracy") else value for name, value in found.items()}


def read_scores(path: Path) -> Scores:
    """Read metrics and intervals by label from the report of a benchmark, `report.json`.

    Args:
        path: Report.

    Returns:
        Metrics of `SCORES` for each label, shares in %, and their intervals.

    Raises:
        UsageError: If it is no such report.
    """
    metrics: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] != 2:
            raise ValueError(f"its format is {report['format']}, not 2")
        for entry in report["candidates"]:
            distance = entry["metrics"].get("frechet", {}).get("distance")
            metrics[entry["candidate"]] = {} if distance is None else {"frechet": float(distance)}
        for result in report["results"]:
            if result["skill"] == "mean" and result["split"] in SCORES:
                label, split = result["candidate"], result["split"]
                metrics[label][split] = 100 * result["score"]
                intervals.setdefault(label, {})[split] = (100 * result["low"], 100 * result["high"])
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", fix="make it with bitvar evaluate") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is no report of a benchmark.", why, "make it again") from None
    return metrics, intervals


def group_lines(rows: Sequence[StudyRow]) -> dict[str, list[StudyRow]]:
    """Group rows of equal bits and samples, smallest model first, under a label that tells the groups apart."""
    keys = sorted({(row.bits, row.samples) for row in rows})
    several_samples = len({samples for _, samples in keys}) > 1
    lines: dict[str, list[StudyRow]] = {}
    for bits, samples in keys:
        label = f"{bits} bits" + (f", {samples:,} samples" if several_samples else "")
        chosen = [row for row in rows if (row.bits, row.samples) == (bits, samples)]
        lines[label] = sorted(chosen, key=lambda row: row.parameters)
    return lines
