"""Finished images that have a URL: kept in memory for some minutes, the oldest dropped when there are too many."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StoredImage:
    """An image behind a URL.

    Attributes:
        data: Bytes of the file.
        media_type: Media type, such as "image/png".
        expires: When the URL ends, on the store's clock.
    """

    data: bytes = field(repr=False)
    media_type: str
    expires: float


class ResultStore:
    """Images by an id that can't be guessed, so the id is the permission to read.

    Args:
        seconds: How long an image is kept.
        max_bytes: Most memory in bytes; older images go first. A larger image isn't kept at all.
        clock: Time in seconds.
    """

    def __init__(self, *, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._images: OrderedDict[str, StoredImage] = OrderedDict()
        self._bytes = 0

    @property
    def num_bytes(self) -> int:
        """Memory in bytes that images take now."""
        return self._bytes

    def put(self, data: bytes, media_type: str) -> str:
        """Keep an image.

        Returns:
            Its id.
        """
        self._drop_expired()
        image_id = secrets.token_urlsafe(24)
        self._images[image_id] = StoredImage(data, media_type, self._clock() + self._seconds)
        self._bytes += len(data)
        while self._bytes > self._max_bytes and self._images:
            self._remove(next(iter(self._images)))
        return image_id

    def get(self, image_id: str) -> StoredImage | None:
        """Return an image; None if there never was one, or no longer is."""
        self._drop_expired()
        return self._images.get(image_id)

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._images:
            oldest = next(iter(self._images))
            if self._images[oldest].expires > now:
                return
            self._remove(oldest)

    def _remove(self, image_id: str) -> None:
        self._bytes -= len(self._images.pop(image_id).data)
