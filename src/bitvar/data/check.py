"""Going through a captioned source: every sample opened once, every refused one named with its reason.

Knows nothing of layouts (`layouts`) or formats (`pictures`), only that some samples are good and some are not.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from PIL import Image

from bitvar.data.layouts import Candidate, Entry, Refusal
from bitvar.data.pictures import Location, PictureLimits, RefusedError, decode_picture
from bitvar.errors import UsageError, explain

_WORKERS = 4
_CHUNK = 256
_RATIO_TOLERANCE = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Good(Generic[T]):
    """A sound sample, and what was made of its picture."""

    candidate: Candidate
    made: T


def go_through(
    entries: Iterable[Entry], make: Callable[[Image.Image], T], *, limits: PictureLimits
) -> Iterator[Good[T] | Refusal]:
    """Decode every picture, in order, several at a time; `make` runs on each decoded RGB picture.

    Refused besides: a sample whose claimed ratio is not the picture's, and one whose picture a good one has had.
    """
    seen: set[Location] = set()

    def work(entry: Entry) -> Good[T] | Refusal:
        if isinstance(entry, Refusal):
            return entry
        try:
            image = decode_picture(entry.picture.read(max_bytes=limits.max_bytes), limits)
            ratio = image.height / image.width
            if entry.ratio is not None and abs(entry.ratio / ratio - 1) > _RATIO_TOLERANCE:
                raise RefusedError("wrong-ratio", f"h_div_w is {entry.ratio:.4g}, the picture's is {ratio:.4g}")
            return Good(entry, make(image))
        except RefusedError as error:
            return Refusal(entry.name, error.reason, error.detail)

    def once(sample: Good[T] | Refusal) -> Good[T] | Refusal:
        if isinstance(sample, Refusal):
            return sample
        name, place = sample.candidate.name, sample.candidate.picture
        if place in seen:
            return Refusal(name, "duplicate", f"{place.file.name} is another good sample's picture too")
        seen.add(place)
        return sample

    waiting = iter(entries)
    with ThreadPoolExecutor(_WORKERS) as pool:
        while chunk := list(itertools.islice(waiting, _CHUNK)):
            yield from map(once, pool.map(work, chunk))


Size: TypeAlias = tuple[int, int]


@dataclass
class Summary:
    """What going through a source found.

    Attributes:
        good: sound samples.
        refused: by reason.
        sizes: pictures by (width, height).
        captions: captions by number of words.
    """

    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sizes: Counter[Size] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)

    @property
    def num_refused(self) -> int:
        return sum(self.refused.values())

    @property
    def bad_fraction(self) -> float:
        """Refused samples of all, 0 to 1."""
        return self.num_refused / max(1, self.good + self.num_refused)

    def add(self, sample: Good[Size] | Refusal) -> None:
        """Count one sample."""
        if isinstance(sample, Refusal):
            self.refused[sample.reason] += 1
            return
        self.good += 1
        self.sizes[sample.made] += 1
        self.captions.update(len(caption.split()) for caption in sample.candidate.captions)

    def require(self, max_bad_fraction: float) -> None:
        """Refuse a source with too many bad samples, or without a good one.

        Raises:
            UsageError: with the reasons and their numbers.
        """
        if self.good and self.bad_fraction <= max_bad_fraction:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.refused.most_common())
        share = f"{self.num_refused:,} of {self.good + self.num_refused:,} samples can't be used"
        todo = f"mend or remove them, or allow more: --max-bad-fraction (now {max_bad_fraction:g})"
        raise UsageError(explain(f"{share}.", reasons or "there is no sample at all", todo))


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
