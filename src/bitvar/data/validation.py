"""Validation of a captioned source: every sample is opened once, and every rejected one is named with its reason.

It knows nothing of layouts (`layouts`) or image formats (`imaging.open`).
"""

import hashlib
import itertools
import math
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from PIL import Image

from bitvar.data.records import RawSample, Record, Rejected
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, RefusedError, decode_image
from bitvar.official_schedules import nearest_ratio

_WORKERS = 4
_CHUNK = 256
_RATIO_TOLERANCE = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Accepted(Generic[T]):
    """A valid sample, the result computed from its image, and the sha256 of the image's bytes if it was requested."""

    raw_sample: RawSample
    result: T
    digest: bytes | None = None


class SeenSet:
    """A compact set of texts. It keeps 76 bits of each digest: 12 choose a bucket, 64 are kept sorted in it.

    Among a hundred million texts, the probability that two are mistaken for each other is 7e-8.
    """

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, text: str) -> bool:
        """Add a text. Return whether it is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()
        bucket, value = self._buckets[int.from_bytes(digest[:2]) >> 4], int.from_bytes(digest[2:])
        at = bisect_left(bucket, value)
        if at < len(bucket) and bucket[at] == value:
            return False
        bucket.insert(at, value)
        return True


def validate(
    records: Iterable[Record],
    transform: Callable[[Image.Image], T],
    *,
    limits: ImageLimits,
    content_hash: bool = False,
    allow_duplicates: bool = False,
) -> Iterator[Accepted[T] | Rejected]:
    """Decode every image, several at a time, and yield the samples in order.

    A sample is rejected if `open_raw_sample` rejects it, or if an earlier accepted sample has the same image.

    Args:
        records: Any number of records. Only a few are held in memory at a time.
        transform: Computes `Accepted.result` from a decoded RGB image.
        limits: Bounds on an image's size and shape.
        content_hash: Put the sha256 of each image's bytes into `Accepted.digest`.
        allow_duplicates: Keep samples whose image an earlier accepted sample has.
    """
    seen = SeenSet()

    def open_record(record: Record) -> Accepted[T] | Rejected:
        if isinstance(record, Rejected):
            return record
        try:
            image, digest = open_raw_sample(record, limits, content_hash=content_hash)
            return Accepted(record, transform(image), digest)
        except RefusedError as error:
            return Rejected(record.name, error.reason, error.detail)

    def once(sample: Accepted[T] | Rejected) -> Accepted[T] | Rejected:
        if isinstance(sample, Accepted) and not allow_duplicates and not seen.add(sample.raw_sample.image.address):
            return _duplicate(sample.raw_sample)
        return sample

    waiting = iter(records)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while chunk := list(itertools.islice(waiting, _CHUNK)):
            yield from map(once, pool.map(open_record, chunk))


def without_duplicates(records: Iterable[Record], limits: ImageLimits) -> Iterator[Record]:
    """Reject the records whose image an earlier valid sample has, as `validate` does, for a set that fits in memory.

    Only images that occur more than once are opened.
    """
    first: dict[str, RawSample] = {}
    sound: set[str] = set()
    for record in records:
        if isinstance(record, RawSample):
            address = record.image.address
            earlier = first.get(address)
            if earlier is not None and (address in sound or is_valid(earlier, limits)):
                sound.add(address)
                yield _duplicate(record)
                continue
            first[address] = record
        yield record


def is_valid(raw_sample: RawSample, limits: ImageLimits) -> bool:
    """Tell whether a sample's image can be used."""
    try:
        open_raw_sample(raw_sample, limits)
    except RefusedError:
        return False
    return True


def _duplicate(raw_sample: RawSample) -> Rejected:
    return Rejected(raw_sample.name, "duplicate", f"{raw_sample.image.address} is also the image of an earlier sample")


def open_raw_sample(
    raw_sample: RawSample, limits: ImageLimits, *, content_hash: bool = False
) -> tuple[Image.Image, bytes | None]:
    """Return a sample's decoded RGB image, and the sha256 of its bytes if it is requested or the source has one.

    Raises:
        RefusedError: If the image can't be used, or its digest or ratio differs from the one its source gives.
    """
    data = raw_sample.image.read(max_bytes=limits.max_bytes)
    digest = hashlib.sha256(data).digest() if content_hash or raw_sample.digest is not None else None
    if raw_sample.digest not in (None, digest):
        raise RefusedError("altered", "the image has changed since it was indexed")
    image = decode_image(data, limits)
    check_ratio(raw_sample.ratio, image.size)
    return image, digest


def check_ratio(claimed: float | None, size: "Size") -> None:
    """Raise RefusedError if an image's ratio, height / width, differs from the one its source gives."""
    ratio = size[1] / size[0]
    if claimed is not None and abs(claimed / ratio - 1) > _RATIO_TOLERANCE:
        raise RefusedError("wrong-ratio", f"h_div_w is {claimed:.4g}, but the image has {ratio:.4g}")


CURES: Final = {
    "duplicate": "if an image is meant to have several samples, keep them with --allow-duplicates",
    "no-caption": "add captions with --caption TEXT (one for all) or --captions-from-names",
    "empty-caption": "add captions with --caption TEXT (one for all) or --captions-from-names",
    "unsorted-tar": "sort the tar by name: unpack it, then tar --sort=name -cf sorted.tar FOLDER",
}
"""Fixes by reason, where there is a better one than to repair or remove the samples."""


Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


@dataclass
class Summary:
    """Counts of the samples in a source. Its size doesn't grow with the number of samples.

    Attributes:
        accepted: Number of valid samples.
        rejected: Number of rejected samples by reason.
        splits: Number of samples by split; "" counts those without one.
        ratios: Number of samples by the official ratio nearest to the image's height / width.
        sides: Number of images by the length of their shorter side in pixels.
        captions: Number of captions by number of words.
        other_files: Number of files that belong to no sample, by ending.
    """

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    ratios: Counter[str] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)
    other_files: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def num_rejected(self) -> int:
        """Number of rejected samples, of whatever reason."""
        return sum(self.rejected.values())

    @property
    def bad_fraction(self) -> float:
        """Share of rejected samples, 0 to 1."""
        return self.num_rejected / max(1, self.accepted + self.num_rejected)

    def add(self, sample: Accepted[Size] | Rejected) -> None:
        """Count one sample."""
        if isinstance(sample, Rejected):
            self.rejected[sample.reason] += 1
            return
        width, height = sample.result
        self.accepted += 1
        self.splits[sample.raw_sample.split or ""] += 1
        self.ratios[nearest_ratio(height / width)] += 1
        self.sides[min(width, height)] += 1
        self.captions.update(len(caption.split()) for caption in sample.raw_sample.captions)

    def require(self, max_bad_fraction: float, *, cure: str | None = None) -> None:
        """Raise an error for a source with too many rejected samples, or without an accepted one.

        Args:
            max_bad_fraction: Largest share of rejected samples, 0 to 1.
            cure: A better fix than those of `CURES`, if the caller knows one.

        Raises:
            UsageError: If the source can't be used; lists the reasons and their counts.
        """
        if self.accepted and self.bad_fraction <= max_bad_fraction:
            return
        if not self.rejected:
            todo = "check the path, and that the file holds more than a header"
            raise UsageError("There are no samples.", "the source lists none", todo)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.most_common())
        share = f"{self.num_rejected:,} of {self.accepted + self.num_rejected:,} samples are rejected"
        todo = "repair or remove them"
        if self.accepted:
            enough = math.ceil(self.bad_fraction * 100) / 100
            todo += f", or leave them out: --max-bad-fraction {enough:g} (now {max_bad_fraction:g})"
        commonest = next(iter(self.rejected.most_common(1)), ("", 0))[0]
        first = cure or CURES.get(commonest)
        raise UsageError(f"{share}.", reasons, f"{first}; or {todo}" if first else todo)


def quantiles(counts: Counter[int]) -> dict[str, int]:
    """Return the minimum, median, 99th percentile and maximum of counted whole numbers; empty for none."""
    total = counts.total()
    if not total:
        return {}
    ordered = sorted(counts.items())

    def at(share: float) -> int:
        reached = itertools.accumulate(count for _, count in ordered)
        return next(value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= share * total)

    return {"min": ordered[0][0], "median": at(0.5), "p99": at(0.99), "max": ordered[-1][0]}
