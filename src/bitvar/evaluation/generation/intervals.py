"""From verdicts to shares with intervals. Knows no images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from bitvar.icons.dataset.prompts import SKILLS, SPLITS

MEAN: Final = "mean"
"""In the place of a skill: the mean of the skills' shares."""

_Z: Final = 1.959964  # a normal variable lies within so many deviations with 95 %
_RESAMPLES: Final = 2000
_BOOTSTRAP_SEED: Final = 0


def wilson(right: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, of `right` among `count` independent ones (Wilson, 1927)."""
    share, spread = right / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z / (1 + spread) * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(shares: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean of the prompts' shares, by resampling prompts.

    Images of one prompt are no independent ones, so they stay together.
    """
    values, rng = np.asarray(shares, dtype=float), np.random.default_rng(_BOOTSTRAP_SEED)
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def of_mean(shares: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A 95 % interval of the mean of independent shares from theirs: distances to the limits add up as deviations do.

    The method of variance estimates recovery (Zou and Donner, 2008).
    """
    mean, count = sum(shares) / len(shares), len(shares)
    down, up = (
        sum((share - interval[side]) ** 2 for share, interval in zip(shares, intervals, strict=True)) ** 0.5 / count
        for side in (0, 1)
    )
    return max(0.0, mean - down), min(1.0, mean + up)


def score(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The share right of every split and skill, and of every split the mean over its skills.

    Args:
        verdicts: of one contender, as `verdicts/*.jsonl` has them.

    Yields:
        Results with `split`, `skill`, `prompts`, `images`, `share`, `low` and `high`.
    """
    for split in SPLITS:
        results = []
        for skill in SKILLS:
            by_prompt: dict[str, list[bool]] = {}
            for row in verdicts:
                if row["split"] == split and row["skill"] == skill:
                    by_prompt.setdefault(row["id"], []).append(row["right"])
            if by_prompt:
                results.append({"split": split, "skill": skill, **_skill(list(by_prompt.values()))})
        yield from results
        if len(results) > 1:
            yield {"split": split, "skill": MEAN, **_mean(results)}


def _skill(groups: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Of the verdicts of every prompt."""
    shares = [sum(each) / len(each) for each in groups]
    images = sum(map(len, groups))
    # a bootstrap of prompts that are all alike would have no width; then each counts as one trial
    several = images > len(groups) and max(shares) > min(shares)
    interval = bootstrap(shares) if several else wilson(sum(shares), len(shares))
    return _result(len(groups), images, sum(shares) / len(shares), interval)


def _mean(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [result["share"] for result in results]
    interval = of_mean(shares, [(result["low"], result["high"]) for result in results])
    prompts, images = (sum(result[name] for result in results) for name in ("prompts", "images"))
    return _result(prompts, images, sum(shares) / len(shares), interval)


def _result(prompts: int, images: int, share: float, interval: tuple[float, float]) -> dict[str, Any]:
    low, high = interval
    return {
        "prompts": prompts,
        "images": images,
        "share": round(share, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
