"""Shared access to a pipeline's weights: any number of calls that read them, or one that changes them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bitvar.errors import UsageError


class Sharing:
    """A lock that lets any number of calls read the weights, and refuses a change while any of them runs.

    A change doesn't wait for calls to finish, since the same thread may have paused one between two scales of a stream.
    A call that begins during a change waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._readers = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the weights as they are until the end of the block."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    @contextmanager
    def changing(self, change: str) -> Iterator[None]:
        """Hold the weights exclusively until the end of the block.

        Args:
            change: Name of the change in the error, such as "change the adapters".

        Raises:
            UsageError: if calls that read the weights are running. Nothing is changed.
        """
        with self._lock:
            if self._readers:
                calls = "1 call is" if self._readers == 1 else f"{self._readers} calls are"
                why = f"{calls} generating images with the weights as they are"
                raise UsageError(f"Can't {change} now.", why, "let it finish, or close its stream")
            yield

    def __reduce__(self) -> tuple[type["Sharing"], tuple[()]]:
        """Give a copied pipeline a lock of its own, which nobody holds."""
        return Sharing, ()
