"""From verdicts to shares with intervals. Knows no pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from bitvar.data.icons.prompts import SKILLS, SPLITS

MEAN: Final = "mean"
"""In the place of a skill: the mean of the skills' shares."""

_Z: Final = 1.959964  # a normal variable lies within so many deviations with 95 %
_RESAMPLES: Final = 2000
_BOOTSTRAP_SEED: Final = 0


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, of `right` among `count` independent ones (Wilson, 1927)."""
    share, spread = right / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z / (1 + spread) * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """A 95 % interval of the mean of the groups' means, by resampling each group's prompts.

    Args:
        groups: each with the share right of every prompt; pictures of one prompt are no independent ones.
    """
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    means = np.zeros(_RESAMPLES)
    for group in groups:
        values = np.asarray(group, dtype=float)
        means += values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1) / len(groups)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def score(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The share right of every split and skill, and of every split the mean over its skills.

    Args:
        verdicts: of one contender, as `verdicts/*.jsonl` has them.

    Yields:
        Results with `split`, `skill`, `prompts`, `pictures`, `share`, `low` and `high`.
    """
    for split in SPLITS:
        groups: list[list[float]] = []
        pictures = 0
        for skill in SKILLS:
            chosen = [row for row in verdicts if row["split"] == split and row["skill"] == skill]
            if not chosen:
                continue
            by_prompt: dict[str, list[bool]] = {}
            for row in chosen:
                by_prompt.setdefault(row["id"], []).append(row["right"])
            shares = [sum(each) / len(each) for each in by_prompt.values()]
            one_each = len(chosen) == len(shares)
            interval = wilson(sum(row["right"] for row in chosen), len(chosen)) if one_each else bootstrap([shares])
            yield _result(split, skill, len(chosen), [shares], interval)
            groups.append(shares)
            pictures += len(chosen)
        if len(groups) > 1:
            yield _result(split, MEAN, pictures, groups, bootstrap(groups))


def _result(
    split: str, skill: str, pictures: int, groups: Sequence[Sequence[float]], interval: tuple[float, float]
) -> dict[str, Any]:
    share = sum(sum(group) / len(group) for group in groups) / len(groups)
    low, high = interval
    return {
        "split": split,
        "skill": skill,
        "prompts": sum(map(len, groups)),
        "pictures": pictures,
        "share": round(share, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
