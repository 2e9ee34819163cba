"""Draws a work list into a folder: alone, or with other processes that draw the same list at the same time."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bitvar import __version__
from bitvar.bulk.folder import OutputFolder, PlannedImage
from bitvar.bulk.ledger import LedgerLine
from bitvar.bulk.work import DrawingHooks, WorkItem, address_of, check_items, drawn_by
from bitvar.errors import UsageError
from bitvar.pipeline.image_files import encode_image, format_of, resize_as_recorded
from bitvar.pipeline.record import ImageRecord

if TYPE_CHECKING:
    from PIL import Image

    from bitvar.pipeline import InfinityPipeline

MAX_BATCH: Final = 256
"""Most images of a batch: each holds a file lock, and systems allow a process about a thousand open files."""

_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class WorkResult:
    """What a run did. When it returns, every image of the work list is there, whoever made it.

    Attributes:
        lines: Line of each image, in the order of the work list.
        already_there: Number of images that were there when this process began.
        drawn: Number of images that this process made; other processes made the rest.
        seconds: Time that this process spent drawing.
    """

    lines: list[LedgerLine]
    already_there: int
    drawn: int
    seconds: float


def generate_work(
    pipeline: "InfinityPipeline",
    items: Sequence[WorkItem],
    folder: Path,
    *,
    batch_size: int,
    hooks: DrawingHooks | None = None,
    arrange: bool = True,
    log: Callable[[str], None] = lambda text: None,
    accepted: Callable[[], None] = lambda: None,
) -> WorkResult:
    """Draw a work list into a folder. Images that are there are not drawn again, and none is ever replaced.

    Processes that call this with the same folder share the work: each image is drawn by the first that claims it, and
    a process that is killed loses its claims. An image doesn't depend on who draws it, nor on the batch.

    Args:
        pipeline: Model to draw with.
        items: PlannedImage list; each item has a file of its own.
        folder: Folder of the images and of their ledger, `images.jsonl`; made if it isn't there.
        batch_size: Most images to draw together, from 1 to 256.
        hooks: Watermark and control of all images; None for neither.
        arrange: Whether to bring the ledger into the order of the list at the end.
        log: Receives a line of progress after each batch.
        accepted: Called once nothing is in the way of any image, before the first is drawn.

    Raises:
        UsageError: The list can't be drawn into a folder, or a file of another origin or address is in the way.
            Nothing has been drawn.
    """
    if not 1 <= batch_size <= MAX_BATCH:
        raise UsageError(f"A batch of {batch_size} images is out of range.", fix=f"choose from 1 to {MAX_BATCH}")
    check_items(items)
    hooks = hooks or DrawingHooks()
    images = _addressed(items, drawn_by(pipeline, hooks))
    place = OutputFolder(folder)
    place.require_own(images)
    accepted()
    missing = [planned for planned in images if not place.has(planned)]
    files = {item.file for item in items}
    began, drawn, seconds = time.perf_counter(), 0, 0.0
    with closing(_claimed_batches(place, missing, batch_size, log)) as batches:
        for batch in batches:
            started = time.perf_counter()
            place.keep(_draw(pipeline, batch, hooks))
            now = time.perf_counter()
            drawn, seconds = drawn + len(batch), seconds + now - started
            log(_progress(len(files & place.ledger.known.keys()), len(images), len(missing), now - began))
    if arrange:
        place.ledger.arrange({item.file: item.note for item in items})
    lines = place.ledger.refresh()
    return WorkResult([lines[item.file] for item in items], len(images) - len(missing), drawn, seconds)


def _progress(done: int, total: int, missing: int, seconds: float) -> str:
    """Say how far a run is: all of its processes together."""
    rate = max(done - (total - missing), 1) / max(seconds, 1e-9)
    left = (total - done) / rate
    units = ((3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(((size, unit) for size, unit in units if left >= 2 * size), (1, "s"))
    return f"{done} of {total} images, {rate:.3g} a second" + (f", {left / size:.0f} {unit} left" if left >= 1 else "")


def _addressed(items: Sequence[WorkItem], drawing: Mapping[str, Any]) -> list[PlannedImage]:
    groups: dict[str, int] = {}
    texts = [json.dumps(item.settings, sort_keys=True) for item in items]
    return [
        PlannedImage(item, address_of(item, drawing), groups.setdefault(text, len(groups)))
        for item, text in zip(items, texts, strict=True)
    ]


def _claimed_batches(
    place: OutputFolder, missing: Sequence[PlannedImage], size: int, log: Callable[[str], None]
) -> Generator[list[PlannedImage]]:
    """Yield batches of equal settings that this process has claimed, until every image is there."""
    queue, elsewhere = deque(sorted(missing, key=lambda planned: planned.group)), deque[PlannedImage]()
    waiting = False
    while queue or elsewhere:
        with _claims(place, queue, elsewhere, size) as batch:
            if batch:
                yield batch
        if queue:
            continue
        place.ledger.refresh()
        queue.extend(planned for planned in elsewhere if not place.has(planned))
        elsewhere.clear()
        if queue and not batch:  # others draw the rest: wait for them, and take over from those that are killed
            if not waiting:
                log(f"waiting for {len(queue)} images that other processes draw")
            waiting = True
            time.sleep(_POLL_SECONDS)


@contextmanager
def _claims(
    place: OutputFolder, queue: deque[PlannedImage], elsewhere: deque[PlannedImage], size: int
) -> Iterator[list[PlannedImage]]:
    """Hold the claims of the next batch. What others have claimed moves from `queue` to `elsewhere`."""
    claims = []
    try:
        while queue and len(claims) < size and (not claims or queue[0].group == claims[0][0].group):
            planned = queue.popleft()
            if place.has(planned):
                continue
            claim = place.claim(planned)
            if claim is None:
                elsewhere.append(planned)
            else:
                claims.append((planned, claim))
        place.require_own([planned for planned, _ in claims])
        yield [planned for planned, _ in claims if not place.finish(planned)]
    finally:
        for planned, claim in claims:
            place.release(planned, claim)


def _draw(
    pipeline: "InfinityPipeline", batch: Sequence[PlannedImage], hooks: DrawingHooks
) -> list[tuple[PlannedImage, bytes, LedgerLine]]:
    """Draw images of equal settings together, and encode each with its record and its line."""
    started = time.perf_counter()
    items = [planned.item for planned in batch]
    values = {"prompts": tuple(item.prompt for item in items), "seed": tuple(item.seed for item in items)}
    request = items[0].request.model_copy(
        update={**values, "negative_prompt": items[0].settings.get("negative_prompt")}
    )
    last = deque(pipeline.stream_request(request, watermark=hooks.watermark, control=hooks.control), maxlen=1).pop()
    files = [
        _encode(item, image, metadata)
        for item, image, metadata in zip(items, last.preview(), last.metadata, strict=True)
    ]
    seconds = (time.perf_counter() - started) / len(batch)
    return [
        (planned, data, _line(planned, data, record, seconds, len(batch)))
        for planned, (data, record) in zip(batch, files, strict=True)
    ]


def _encode(item: WorkItem, image: "Image.Image", metadata: Mapping[str, Any]) -> tuple[bytes, ImageRecord]:
    record = ImageRecord.of(metadata, **{"version": __version__, **item.record})
    return encode_image(resize_as_recorded(image, record), record, format_of(Path(item.file))), record


def _line(planned: PlannedImage, data: bytes, record: ImageRecord, seconds: float, batch: int) -> LedgerLine:
    settings = record.model_dump(mode="json", exclude_defaults=True, exclude={"prompt", "seed", "model"})
    return LedgerLine(
        file=planned.item.file,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        prompt=record.prompt,
        seed=record.seed,
        model=record.model,
        settings=settings,
        seconds=round(seconds, 4),
        batch=batch,
        address=planned.address,
        note=dict(planned.item.note),
    )
