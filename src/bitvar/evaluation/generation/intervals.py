"""Means of scores with 95 % intervals, by split and skill."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from bitvar.evaluation.benchmarks.base import Row, Score, Table

MEAN: Final = "mean"
"""Name that stands for a skill in the row with the mean over the skills of a split."""

_Z: Final = 1.959964  # 95 % quantile of the normal distribution, two-sided
_RESAMPLES: Final = 2000
_BOOTSTRAP_SEED: Final = 0

Interval = tuple[float | None, float | None]


def wilson(correct: float, count: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of the share of `correct` among `count` independent trials (Wilson, 1927)."""
    share, spread = correct / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z / (1 + spread) * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(means: Sequence[float]) -> tuple[float, float]:
    """Compute a 95 % interval of the mean of the prompts' mean scores, by resampling prompts.

    Images of one prompt are not independent, so they stay together.
    """
    values, rng = np.asarray(means, dtype=float), np.random.default_rng(_BOOTSTRAP_SEED)
    resampled = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def interval_of_mean(means: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Compute a 95 % interval of the mean of independent means from their intervals.

    Distances to the limits add up as standard deviations do: the method of variance estimates recovery (Zou and
    Donner, 2008).
    """
    mean, count = sum(means) / len(means), len(means)
    down, up = (
        sum((value - interval[side]) ** 2 for value, interval in zip(means, intervals, strict=True)) ** 0.5 / count
        for side in (0, 1)
    )
    return mean - down, mean + up


def by_skill(scores: Sequence[Score]) -> Table:
    """Summarise scores by split and skill, with the mean over the skills of each split that has several.

    Splits and skills come in the order of their first appearance. Scores with a decision count as shares of correct
    images, all others as plain numbers.

    Args:
        scores: Scores of one candidate.
    """
    decided = all(score.correct is not None for score in scores)
    groups: dict[str, dict[str, dict[str, list[float]]]] = {}
    for score in scores:
        prompts = groups.setdefault(score.split, {}).setdefault(score.skill, {})
        prompts.setdefault(score.id, []).append(score.score)
    rows: list[Row] = []
    for split, skills in groups.items():
        own = [_skill_row(split, skill, list(prompts.values()), decided) for skill, prompts in skills.items()]
        rows += own
        if len(own) > 1:
            rows.append(_mean_row(split, own, decided))
    return Table(rows, "%" if decided else "")


def _skill_row(split: str, skill: str, by_prompt: Sequence[Sequence[float]], decided: bool) -> Row:
    means = [sum(each) / len(each) for each in by_prompt]
    images = sum(map(len, by_prompt))
    varies = max(means) > min(means)
    interval: Interval = (None, None)
    if decided:
        # a bootstrap of prompts with equal shares would have no width; then each prompt counts as one trial
        several = images > len(by_prompt) and varies
        interval = bootstrap(means) if several else wilson(sum(means), len(means))
    elif varies:
        interval = bootstrap(means)
    return _row(split, skill, len(by_prompt), images, sum(means) / len(means), interval)


def _mean_row(split: str, rows: Sequence[Row], decided: bool) -> Row:
    means = [row.score for row in rows]
    known = [(row.low, row.high) for row in rows if row.low is not None and row.high is not None]
    interval: Interval = (None, None)
    if len(known) == len(rows):
        low, high = interval_of_mean(means, known)
        interval = (max(0.0, low), min(1.0, high)) if decided else (low, high)
    prompts, images = sum(row.prompts for row in rows), sum(row.images for row in rows)
    return _row(split, MEAN, prompts, images, sum(means) / len(means), interval)


def _row(split: str, skill: str, prompts: int, images: int, score: float, interval: Interval) -> Row:
    low, high = (None if limit is None else round(limit, 6) for limit in interval)
    return Row(split, skill, prompts, images, round(score, 6), low, high)
