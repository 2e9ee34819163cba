"""Evaluation of tokenizers: reconstruction quality, compared with JPEG and WebP at their rate.

It reads the images once, a batch at a time, and keeps sums only. Interrupted, the same call resumes from the last save,
always between two batches, and gives the same results as a run in one go.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bitvar.codec import ImageCodec
from bitvar.codec.bitfile import MAX_PIXELS
from bitvar.config import Config, read_json
from bitvar.data.layouts import Record
from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction.accumulators import results
from bitvar.evaluation.reconstruction.baselines import FORMATS
from bitvar.evaluation.reconstruction.compare import ORIGINALS, ReconstructionComparison
from bitvar.evaluation.reconstruction.images import ImageStream, find_source, open_record
from bitvar.evaluation.reconstruction.progress import FILE, IMAGES, REJECTED, Progress
from bitvar.evaluation.reconstruction.sheet import Row, choose, draw_sheet
from bitvar.evaluation.run_folder import Lines, claimed, read_lines, require_own
from bitvar.files import atomic_path, write_text
from bitvar.imaging.alpha import take_off_white
from bitvar.imaging.convert import RGBA_CHANNELS, image_bytes
from bitvar.imaging.open import RefusedError, fit_image
from bitvar.metrics.distances import perceptual_distance, psnr
from bitvar.metrics.frechet import feature_network
from bitvar.metrics.networks import three_channels

SAVE_EVERY: Final = 256
"""Number of images between two saves of the progress, unless `SAVE_SECONDS` pass earlier."""

SAVE_SECONDS: Final = 30.0

REPORT: Final = "report.json"
SHEET: Final = "sheet.png"
OWN: Final = "own"

_BATCH_PIXELS: Final = 1 << 21


class NamedTokenizer(Config):
    """A tokenizer by its label in reports, with its identity (`weights.identity.TokenizerIdentity`)."""

    label: str
    name: str
    sha256: str


class ReconstructionSettings(Config):
    """Everything that decides the results.

    Attributes:
        images: Sources of the images, as `images.name_source` names them.
        split, limit: Restrict captioned sets to a split, and the images to the first ones.
        sizes: Sides of the square that images are scaled and cropped to; None is their own size. One or more.
        tokenizers: One or more. The first sets the rate of the baselines and the order of the sheet.
        baselines: Formats to compare with: "jpeg", "webp".
        refine_steps: Number of refinement steps of each encoding (`ImageCodec.encode`).
        feature_network, distance: Names of the networks.
        batch_size: Number of images at once.
        dtype, device: Those of the tokenizers.
    """

    format: Literal[4] = 4
    images: tuple[str, ...]
    split: str | None
    limit: int | None
    sizes: tuple[int | None, ...]
    tokenizers: tuple[NamedTokenizer, ...]
    baselines: tuple[str, ...]
    refine_steps: int = 0
    feature_network: str
    distance: str
    batch_size: int
    dtype: str
    device: str


def evaluate_reconstruction(
    settings: ReconstructionSettings,
    codecs: Mapping[str, ImageCodec],
    out: Path,
    *,
    sheet: int | None = None,
    log: Callable[[str], None] = lambda text: None,
    save_every: int = SAVE_EVERY,
) -> dict[str, Any]:
    """Evaluate the tokenizers, or resume the same evaluation, and write `report.json`.

    Args:
        settings: Settings of the evaluation.
        codecs: Tokenizers of the settings, by label, loaded as the settings say.
        out: Folder for the report, the metrics of every image, and the sheet.
        sheet: Number of images on the sheet, evenly by rank; None is the best, middle and worst three, 0 is no sheet.
        log: Called with each line of progress.
        save_every: Number of images between two saves of the progress, unless half a minute passes earlier.

    Returns:
        The report (docs/evaluation.md).

    Raises:
        UsageError: for images or sizes that can't be used, a folder with another evaluation in it, or networks that
            aren't available.
    """
    images = ImageStream([find_source(path) for path in settings.images], split=settings.split, limit=settings.limit)
    for source in map(find_source, settings.images):
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            why = f"it lies in {source}, so the sheet would be one of its images"
            raise UsageError(f"Can't write to {out}.", why, "choose another folder with -o")
    require_own(out, (REPORT, FILE, SHEET, IMAGES, REJECTED))
    # networks and sizes are refused before anything is written
    comparison = None if (out / REPORT).exists() else _comparison(settings, codecs)
    with claimed(out, settings, outputs=(REPORT, FILE)):
        path = out / REPORT
        report = read_json(path) if path.is_file() else None
        if report is not None and report.get("sheet") == sheet:
            return report
        comparison = comparison or _comparison(settings, codecs)
        if report is None:
            report = _report(settings, comparison, _measure_all(images, settings, comparison, out, log, save_every))
        _draw(images, settings, comparison, out, sheet)
        report["sheet"] = sheet
        write_text(path, json.dumps(report, indent=1) + "\n")
        (out / FILE).unlink(missing_ok=True)
        return report


def _comparison(settings: ReconstructionSettings, codecs: Mapping[str, ImageCodec]) -> ReconstructionComparison:
    device = next(iter(codecs.values())).tokenizer.device
    distance = perceptual_distance(settings.distance, device)
    network = feature_network(settings.feature_network, device)
    comparison = ReconstructionComparison(codecs, settings.baselines, distance, network, device, settings.refine_steps)
    for side in settings.sizes:
        if side is not None and not comparison.limits.min_side <= side <= int(MAX_PIXELS**0.5):
            why = f"{comparison.limits.min_side} to {int(MAX_PIXELS**0.5)} is possible"
            raise UsageError(f"Images can't be {side} pixels a side.", why, "choose another --size")
    return comparison


def _measure_all(
    images: ImageStream,
    settings: ReconstructionSettings,
    comparison: ReconstructionComparison,
    out: Path,
    log: Callable[[str], None],
    save_every: int,
) -> Progress:
    progress = Progress.load(out)
    records = _after(images, progress)
    if progress.read:
        log(f"resuming after {progress.read} images")
    with ExitStack() as stack:
        lines, rejected = (
            stack.enter_context(Lines(out / name, progress.lengths.get(name, 0))) for name in (IMAGES, REJECTED)
        )

        def reject(name: str, error: RefusedError) -> None:
            progress.rejected[error.reason] += 1
            rejected.write({"image": name, "reason": error.reason, "detail": error.detail})
            log(f"left out: {name}: {error}")

        def save() -> None:
            progress.lengths = {IMAGES: lines.flush(), REJECTED: rejected.flush()}
            progress.save(out)
            log(f"{progress.read} images")

        saved, saved_at = progress.read, time.monotonic()
        while group := list(islice(records, settings.batch_size)):
            _measure_group(_open(group, progress, settings, comparison, reject), settings, comparison, progress, lines)
            if progress.read - saved >= save_every or time.monotonic() - saved_at > SAVE_SECONDS:
                save()
                saved, saved_at = progress.read, time.monotonic()
        if progress.read > saved:
            save()
    if said := images.skipped.describe():
        log(said)
    if not progress.accumulators:
        (out / FILE).unlink(missing_ok=True)
        reasons = ", ".join(f"{reason} {count}" for reason, count in progress.rejected.items())
        raise UsageError("There is nothing to evaluate.", reasons or "there is no image", "check the paths")
    return progress


def _after(images: ImageStream, progress: Progress) -> Iterator[Record]:
    """Skip the records that were read before, which must be the same as then."""
    records, again = iter(images), Progress()
    for record in islice(records, progress.read):
        again.count(record.name)
    if again.names != progress.names:
        why = f"the first {progress.read} are not those that were read before the evaluation was interrupted"
        raise UsageError("The images have changed.", why, "put them back, or choose another folder with -o")
    return records


@dataclass(frozen=True)
class _Opened:
    """An open image, with its number among all records, from 0."""

    number: int
    name: str
    image: Image.Image


def _open(
    records: Sequence[Record],
    progress: Progress,
    settings: ReconstructionSettings,
    comparison: ReconstructionComparison,
    reject: Callable[[str, RefusedError], None],
) -> list[_Opened]:
    """Open the images of a batch; `reject` is called for those that can't be used."""
    batch: list[_Opened] = []
    for record in records:
        number = progress.read
        progress.count(record.name)
        try:
            image = _open_one(record, comparison)
            _require_formats(image, settings)
        except RefusedError as error:
            reject(record.name, error)
        else:
            batch.append(_Opened(number, record.name, image))
    return batch


def _open_one(record: Record, comparison: ReconstructionComparison) -> Image.Image:
    return open_record(record, comparison.limits, transparent=comparison.channels == RGBA_CHANNELS)


def _require_formats(image: Image.Image, settings: ReconstructionSettings) -> None:
    longest = max(max(image.size) if side is None else side for side in settings.sizes)
    for name in settings.baselines:
        if longest > FORMATS[name].max_side:
            raise RefusedError("too-long", f"{longest} pixels a side; {name} takes {FORMATS[name].max_side}")


def _measure_group(
    batch: Sequence[_Opened],
    settings: ReconstructionSettings,
    comparison: ReconstructionComparison,
    progress: Progress,
    lines: Lines,
) -> None:
    """Measure a batch at every size, and write the metrics of each image."""
    width = comparison.features.width
    for side in settings.sizes:
        size = _size_name(side)
        for opened, pixels in _by_size(batch, side, comparison.channels):
            for label, rows in comparison.measure_batch(
                pixels, lambda label, size=size: progress.accumulator(size, label, width)
            ):
                for image, row in zip(opened, rows, strict=True):
                    where = {"number": image.number, "image": image.name, "size": size, "candidate": label}
                    lines.write(where | {name: _short(value) for name, value in row.items()})


def _by_size(
    batch: Sequence[_Opened], side: int | None, channels: int
) -> Iterator[tuple[list[_Opened], UInt8[np.ndarray, "b H W c"]]]:
    """Group neighbours of one size into batches of limited memory."""
    sized = [(opened, _pixels(opened.image, side, channels)) for opened in batch]
    for shape, group in groupby(sized, key=lambda pair: pair[1].shape):
        alike, count = list(group), max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
        for start in range(0, len(alike), count):
            chunk = alike[start : start + count]
            yield [opened for opened, _ in chunk], np.stack([pixels for _, pixels in chunk])


def _pixels(image: Image.Image, side: int | None, channels: int) -> UInt8[np.ndarray, "H W c"]:
    return image_bytes(image if side is None else fit_image(image, (side, side)), channels)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _size_name(side: int | None) -> str:
    return OWN if side is None else f"{side}x{side}"


def _report(
    settings: ReconstructionSettings, comparison: ReconstructionComparison, progress: Progress
) -> dict[str, Any]:
    rows = []
    for size in map(_size_name, settings.sizes):
        originals = progress.accumulators[size, ORIGINALS].features
        for label in (*comparison.codecs, *comparison.formats):
            kind = "tokenizer" if label in comparison.codecs else label
            named = {"candidate": label, "kind": kind, "size": size}
            rows.append(named | results(progress.accumulators[size, label], originals))
    return {
        "format": 4,
        "feature_network": comparison.features.title,
        "distance": comparison.distance.title,
        "settings": settings.model_dump(mode="json"),
        "results": rows,
        "rejected": [{"reason": reason, "images": count} for reason, count in progress.rejected.most_common()],
    }


def _draw(
    images: ImageStream,
    settings: ReconstructionSettings,
    comparison: ReconstructionComparison,
    out: Path,
    num_images: int | None,
) -> None:
    """Draw the sheet; the chosen images are opened again."""
    if num_images == 0:
        (out / SHEET).unlink(missing_ok=True)
        return
    size, first = _size_name(settings.sizes[0]), settings.tokenizers[0].label
    lines = (line for line in read_lines(out / IMAGES) if line["size"] == size and line["candidate"] == first)
    ranked = sorted((-line["psnr"], line["number"]) for line in lines)
    numbers = {ranked[rank][1]: (rank, note) for rank, note in choose(len(ranked), num_images)}
    rows: dict[int, Row] = {}
    for number, record in enumerate(images):
        if number in numbers:
            rank, note = numbers[number]
            pixels = _pixels(_open_one(record, comparison), settings.sizes[0], comparison.channels)
            rows[rank] = _row(pixels, f"{note}{Path(record.name).name}", comparison)
    with atomic_path(out / SHEET) as temporary:
        draw_sheet([rows[rank] for rank in sorted(rows)]).save(temporary, format="PNG")


def _row(pixels: UInt8[np.ndarray, "H W c"], name: str, comparison: ReconstructionComparison) -> Row:
    images, num_pixels = np.stack([pixels]), pixels.shape[0] * pixels.shape[1]
    original = three_channels(comparison.to_signed(images))
    row: Row = [(_image(pixels), (name, f"{pixels.shape[1]} x {pixels.shape[0]} pixels"))]
    for label, result in comparison.results(images):
        quality = psnr(three_channels(comparison.to_signed(result.images)), original).item()
        text = f"{quality:.1f} dB, {result.bits[0] / num_pixels:.2f} bits/pixel"
        row.append((_image(result.images[0]), (label, text)))
    return row


def _image(pixels: UInt8[np.ndarray, "H W c"]) -> Image.Image:
    """Make an RGB image, or an RGBA image with straight alpha of pixels laid on white."""
    return Image.fromarray(take_off_white(pixels) if pixels.shape[-1] == RGBA_CHANNELS else pixels)
