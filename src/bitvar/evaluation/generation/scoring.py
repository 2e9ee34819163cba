"""Scoring of a candidate's images by a benchmark, kept in a file of JSON lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bitvar.data.writing import json_lines
from bitvar.evaluation.benchmarks.base import Benchmark, EvalItem, Score
from bitvar.evaluation.run_folder import read_lines
from bitvar.files import write_text


def score_items(benchmark: Benchmark, items: Sequence[EvalItem], path: Path, *, root: Path) -> None:
    """Score items and write a line for each, atomically.

    Args:
        benchmark: Benchmark that scores them.
        items: Images with the prompts to score them by.
        path: File to write.
        root: Folder that the paths of images are made relative to, if they lie in it.
    """
    path.parent.mkdir(exist_ok=True)
    write_text(path, json_lines(score.to_row() for score in _relative(benchmark.score(items), root)))


def _relative(scores: Iterator[Score], root: Path) -> Iterator[Score]:
    for score in scores:
        path = Path(score.image)
        yield replace(score, image=str(path.relative_to(root))) if path.is_relative_to(root) else score


def read_scores(path: Path) -> list[Score]:
    """Read the scores that `score_items` wrote."""
    return [Score.from_row(row) for row in read_lines(path)]
