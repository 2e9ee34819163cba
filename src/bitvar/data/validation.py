"""Going through a captioned source: every sample opened once, every rejected one named with its reason.

Knows nothing of layouts (`layouts`) or formats (`images`), only that some samples are good and some are not.
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
from bitvar.scales import nearest_ratio

_WORKERS = 4
_CHUNK = 256
_RATIO_TOLERANCE = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Accepted(Generic[T]):
    """A sound sample, what was made of its image, and the sha256 of the image's bytes if it was asked for."""

    raw_sample: RawSample
    result: T
    digest: bytes | None = None


class SeenSet:
    """Which texts there have been: 76 bits of each one's digest, of which 12 say in which sorted bucket 64 lie.

    Of a hundred million texts, two are taken for one with a probability of 7e-8.
    """

    def __init__(self) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))

    def add(self, text: str) -> bool:
        """Whether the text is new; from now on it isn't."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()
        bucket, value = self._buckets[int.from_bytes(digest[:2]) >> 4], int.from_bytes(digest[2:])
        at = bisect_left(bucket, value)
        if at < len(bucket) and bucket[at] == value:
            return False
        bucket.insert(at, value)
        return True


def validate(
    records: Iterable[Record],
    make: Callable[[Image.Image], T],
    *,
    limits: ImageLimits,
    content_hash: bool = False,
    allow_duplicates: bool = False,
) -> Iterator[Accepted[T] | Rejected]:
    """Decode every image, in order, several at a time; `make` runs on each decoded RGB image.

    Refused besides: whatever `open_raw_sample` refuses, and a sample whose image a good one has had.

    Args:
        records: of any number: only some are held at a time.
        make: what is wanted of each image.
        limits: what an image may be.
        content_hash: have the sha256 of each image's bytes in `Accepted.digest`.
        allow_duplicates: keep samples whose image a good one has had.
    """
    seen = SeenSet()

    def work(record: Record) -> Accepted[T] | Rejected:
        if isinstance(record, Rejected):
            return record
        try:
            image, digest = open_raw_sample(record, limits, content_hash=content_hash)
            return Accepted(record, make(image), digest)
        except RefusedError as error:
            return Rejected(record.name, error.reason, error.detail)

    def once(sample: Accepted[T] | Rejected) -> Accepted[T] | Rejected:
        if isinstance(sample, Accepted) and not allow_duplicates and not seen.add(sample.raw_sample.image.address):
            return _duplicate(sample.raw_sample)
        return sample

    waiting = iter(records)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while chunk := list(itertools.islice(waiting, _CHUNK)):
            yield from map(once, pool.map(work, chunk))


def without_duplicates(records: Iterable[Record], limits: ImageLimits) -> Iterator[Record]:
    """The same records, those rejected whose image a good one has had: as `validate`, for a set that fits in memory.

    Opens no image but those that are there twice.
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
    """Whether a sample's image can be used."""
    try:
        open_raw_sample(raw_sample, limits)
    except RefusedError:
        return False
    return True


def _duplicate(raw_sample: RawSample) -> Rejected:
    return Rejected(raw_sample.name, "duplicate", f"{raw_sample.image.address} is another good sample's image too")


def open_raw_sample(
    raw_sample: RawSample, limits: ImageLimits, *, content_hash: bool = False
) -> tuple[Image.Image, bytes | None]:
    """A sample's decoded RGB image, and the sha256 of its bytes if that is asked for or its source knows one.

    Raises:
        RefusedError: if the image can't be used, its bytes are not what its source knows, or its ratio is not what
            its source claims.
    """
    data = raw_sample.image.read(max_bytes=limits.max_bytes)
    digest = hashlib.sha256(data).digest() if content_hash or raw_sample.digest is not None else None
    if raw_sample.digest not in (None, digest):
        raise RefusedError("altered", "the image's bytes are not those that were indexed")
    image = decode_image(data, limits)
    check_ratio(raw_sample.ratio, image.size)
    return image, digest


def check_ratio(claimed: float | None, size: "Size") -> None:
    """Refuse an image whose ratio, height / width, is not what its source claims; RefusedError."""
    ratio = size[1] / size[0]
    if claimed is not None and abs(claimed / ratio - 1) > _RATIO_TOLERANCE:
        raise RefusedError("wrong-ratio", f"h_div_w is {claimed:.4g}, the image's is {ratio:.4g}")


CURES: Final = {
    "duplicate": "if one image is meant to have several captions, keep them all with --allow-duplicates",
    "no-caption": "caption them with --caption TEXT (one for all that have none) or --captions-from-names",
    "empty-caption": "caption them with --caption TEXT (one for all that have none) or --captions-from-names",
    "unsorted-tar": "sort the tar by name: unpack it, then tar --sort=name -cf sorted.tar FOLDER",
}
"""What to do about samples of one reason, where there is more to do than to mend or remove them."""


Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


@dataclass
class Summary:
    """What going through a source found. It stays small however many samples there are.

    Attributes:
        good: sound samples.
        rejected: by reason.
        splits: samples by split; those that have none by "".
        ratios: samples by the official ratio nearest to the image's height / width.
        sides: images by their shorter side in pixels.
        captions: captions by number of words.
        other_files: files that are no part of any sample, by their ending.
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
        return sum(self.rejected.values())

    @property
    def bad_fraction(self) -> float:
        """Refused samples of all, 0 to 1."""
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
        """Refuse a source with too many bad samples, or without a good one.

        Args:
            max_bad_fraction: largest share of rejected samples, 0 to 1.
            cure: what to do, where whoever asks knows better than `CURES`.

        Raises:
            UsageError: with the reasons and their numbers.
        """
        if self.accepted and self.bad_fraction <= max_bad_fraction:
            return
        if not self.rejected:
            todo = "check the path, and that there is more in it than a header"
            raise UsageError("There are no samples.", "the source names none", todo)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.most_common())
        share = f"{self.num_rejected:,} of {self.accepted + self.num_rejected:,} samples can't be used"
        todo = "mend or remove them"
        if self.accepted:
            enough = math.ceil(self.bad_fraction * 100) / 100
            todo += f", or leave them out: --max-bad-fraction {enough:g} (now {max_bad_fraction:g})"
        most = next(iter(self.rejected.most_common(1)), ("", 0))[0]
        first = cure or CURES.get(most)
        raise UsageError(f"{share}.", reasons, f"{first}; or {todo}" if first else todo)


def quantiles(counts: Counter[int]) -> dict[str, int]:
    """Least, median, 99th percentile and most of counted whole numbers; nothing for none."""
    total = counts.total()
    if not total:
        return {}
    ordered = sorted(counts.items())

    def at(share: float) -> int:
        reached = itertools.accumulate(count for _, count in ordered)
        return next(value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= share * total)

    return {"min": ordered[0][0], "median": at(0.5), "p99": at(0.99), "max": ordered[-1][0]}
