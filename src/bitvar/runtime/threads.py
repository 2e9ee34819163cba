"""How many threads a computation on the CPU gains from, by the size of its work. Knows neither models nor settings."""

from typing import Final

_SMALL: Final = 10e9
"""Operations of one image below which a second thread gains less than it risks (docs/performance.md)."""


def useful_threads(operations: float, available: int) -> int:
    """Choose the number of threads for one image.

    A small image is made of operators of microseconds, and its threads wait for each other at the end of each. Beside
    another program, which takes a processor away now and then, that wait costs far more than the second thread gains.

    Args:
        operations: Floating-point operations of one pass of the transformer over all scales.
        available: Number of threads that torch would use.
    """
    return 1 if operations < _SMALL else available
