"""How many processors there are, and how many threads a computation gains from. Knows neither models nor settings."""

import os
from typing import Final

_SMALL: Final = 10e9
"""Operations of one image below which a second thread gains less than it risks (docs/performance.md)."""


def num_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def useful_threads(operations: float, available: int) -> int:
    """Choose the number of threads for one image.

    A small image is made of operators of microseconds, and its threads wait for each other at the end of each. Beside
    another program, which takes a processor away now and then, that wait costs far more than the second thread gains.

    Args:
        operations: Floating-point operations of one pass of the transformer over all scales.
        available: Number of threads that torch would use.
    """
    return 1 if operations < _SMALL else available
