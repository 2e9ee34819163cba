"""What a kind of case is."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.careless.stage import Stage


@dataclass(frozen=True)
class Kind:
    """Cases that are drawn alike.

    Attributes:
        count: how many of them the slow test plays.
        play: plays one.
        quick: whether the first of them is in the default tier.
    """

    count: int
    play: Callable[[Stage], None]
    quick: bool = False
