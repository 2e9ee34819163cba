"""How well tokenizers reconstruct images, beside one another, and beside JPEG and WebP at their rate.

Goes through the images once, a batch at a time, and keeps sums only. Killed, the same call goes on from where they
were last saved, always between two batches: the figures are those of a run in one go.
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
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from PIL import Image

from bitvar.codec import ImageCodec
from bitvar.codec.bitfile import MAX_PIXELS
from bitvar.config import Config, read_json
from bitvar.data.layouts import Record
from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction.accumulators import figures
from bitvar.evaluation.reconstruction.baselines import FORMATS
from bitvar.evaluation.reconstruction.compare import ORIGINALS, Contest
from bitvar.evaluation.reconstruction.images import ImageStream, find_source, open_entry
from bitvar.evaluation.reconstruction.sheet import Row, choose, draw_sheet
from bitvar.evaluation.resume import FILE, IMAGES, REFUSED, Lines, Progress, read_lines
from bitvar.evaluation.run_folder import SETTINGS, require_own
from bitvar.files import atomic_path, write_text
from bitvar.imaging.open import RefusedError, fit_image
from bitvar.metrics.distances import perceptual_distance, psnr
from bitvar.metrics.frechet import feature_network

SAVE_EVERY: Final = 256
"""Images between two saves of the progress, unless `SAVE_SECONDS` pass before."""

SAVE_SECONDS: Final = 30.0

REPORT: Final = "report.json"
SHEET: Final = "sheet.png"
OWN: Final = "own"

_BATCH_PIXELS: Final = 1 << 21


class NamedTokenizer(Config):
    """A tokenizer as reports call it, and which it is (`checkpoints.folder.TokenizerIdentity`)."""

    label: str
    name: str
    sha256: str


class ReconstructionSettings(Config):
    """What decides the figures.

    Attributes:
        images: the sources, by `sources.name_source`.
        split, limit: as there.
        sizes: side of the square that images are scaled and cut to, or None for their own size; one or more.
        tokenizers: one or more. The first sets the rate of the formats and the order of the sheet.
        against: formats, of "jpeg" and "webp".
        passes: of each encoding (`ImageCodec.encode`).
        feature_network, distance: by name.
        batch_size: images that pass at once.
        dtype, device: of the tokenizers.
    """

    format: Literal[2] = 2
    images: tuple[str, ...]
    split: str | None
    limit: int | None
    sizes: tuple[int | None, ...]
    tokenizers: tuple[NamedTokenizer, ...]
    against: tuple[str, ...]
    passes: int = 0
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
    tell: Callable[[str], None] = lambda text: None,
    save_every: int = SAVE_EVERY,
) -> dict[str, Any]:
    """Go through the images, or on from where the same evaluation was stopped, and write `report.json`.

    Args:
        settings: what is measured.
        codecs: the tokenizers of the settings, by label, loaded as they say.
        out: folder for the report, the figures of every image, and the sheet.
        sheet: images of the sheet, evenly by rank; None is the best, middle and worst three, 0 is no sheet.
        tell: is told what goes on, in lines.
        save_every: images between two saves of the progress, unless half a minute passes before.

    Returns:
        The report (docs/evaluation.md).

    Raises:
        UsageError: for images or sizes that can't be used, a folder with another evaluation in it, or networks that
            can't be had.
    """
    images = ImageStream([find_source(path) for path in settings.images], split=settings.split, limit=settings.limit)
    for source in map(find_source, settings.images):
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            why = f"it lies in {source}, so the sheet would be one of its images"
            raise UsageError(f"Can't write to {out}.", why, "choose another folder with -o")
    require_own(out, (REPORT, FILE, SHEET, IMAGES, REFUSED))
    contest = None if (out / REPORT).exists() else _contest(settings, codecs)  # refused before anything is written
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _claim(out, settings)
            path = out / REPORT
            report = read_json(path) if path.is_file() else None
            if report is not None and report.get("sheet") == sheet:
                return report
            contest = contest or _contest(settings, codecs)
            if report is None:
                report = _report(settings, contest, _go_through(images, settings, contest, out, tell, save_every))
            _draw(images, settings, contest, out, sheet)
            report["sheet"] = sheet
            write_text(path, json.dumps(report, indent=1) + "\n")
            (out / FILE).unlink(missing_ok=True)
            return report
    except Timeout:
        why, todo = "two at once would mix their figures", "wait for it, or choose another folder with -o"
        raise UsageError(f"Another process is evaluating in {out}.", why, todo) from None


def _claim(out: Path, settings: ReconstructionSettings) -> None:
    """Refuse a folder in which something else has been evaluated, or begun to be."""
    path = out / SETTINGS
    if not (out / REPORT).exists() and not (out / FILE).exists():
        write_text(path, settings.dump())
        return
    if read_json(path).get("format") != settings.format:
        why = "it measured other things"
        raise UsageError(f"{out} is of an earlier version.", why, "choose another folder with -o")
    before, now = ReconstructionSettings.load(path).model_dump(mode="json"), settings.model_dump(mode="json")
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        why = "; ".join(f"{name} was {json.dumps(before[name])}, now {json.dumps(now[name])}" for name in changed)
        raise UsageError(f"{out} holds another evaluation.", why, "choose another folder with -o")


def _contest(settings: ReconstructionSettings, codecs: Mapping[str, ImageCodec]) -> Contest:
    device = next(iter(codecs.values())).tokenizer.device
    distance = perceptual_distance(settings.distance, device)
    network = feature_network(settings.feature_network, device)
    contest = Contest(codecs, settings.against, distance, network, device, settings.passes)
    for side in settings.sizes:
        if side is not None and not contest.limits.min_side <= side <= int(MAX_PIXELS**0.5):
            why = f"{contest.limits.min_side} to {int(MAX_PIXELS**0.5)} is possible"
            raise UsageError(f"Images can't be {side} pixels a side.", why, "choose another --size")
    return contest


def _go_through(
    images: ImageStream,
    settings: ReconstructionSettings,
    contest: Contest,
    out: Path,
    tell: Callable[[str], None],
    save_every: int,
) -> Progress:
    progress = Progress.load(out)
    entries = _after(images, progress)
    if progress.read:
        tell(f"going on after {progress.read} images")
    with ExitStack() as stack:
        lines, refused = (
            stack.enter_context(Lines(out / name, progress.lengths.get(name, 0))) for name in (IMAGES, REFUSED)
        )

        def refuse(name: str, error: RefusedError) -> None:
            progress.refused[error.reason] += 1
            refused.write({"image": name, "reason": error.reason, "detail": error.detail})
            tell(f"left out: {name}: {error}")

        def save() -> None:
            progress.lengths = {IMAGES: lines.flush(), REFUSED: refused.flush()}
            progress.save(out)
            tell(f"{progress.read} images")

        saved, saved_at = progress.read, time.monotonic()
        while group := list(islice(entries, settings.batch_size)):
            _measure(_open(group, progress, settings, contest, refuse), settings, contest, progress, lines)
            if progress.read - saved >= save_every or time.monotonic() - saved_at > SAVE_SECONDS:
                save()
                saved, saved_at = progress.read, time.monotonic()
        if progress.read > saved:
            save()
    if said := images.skipped.describe():
        tell(said)
    if not progress.tallies:
        (out / FILE).unlink(missing_ok=True)
        reasons = ", ".join(f"{reason} {count}" for reason, count in progress.refused.items())
        raise UsageError("There is nothing to evaluate.", reasons or "there is no image", "check the paths")
    return progress


def _after(images: ImageStream, progress: Progress) -> Iterator[Record]:
    """The entries that come after those that were gone through, which must be the same as then."""
    entries, again = iter(images), Progress()
    for entry in islice(entries, progress.read):
        again.count(entry.name)
    if again.names != progress.names:
        why = f"the first {progress.read} are not those that were gone through before the evaluation was stopped"
        raise UsageError("The images have changed.", why, "put them back, or choose another folder with -o")
    return entries


@dataclass(frozen=True)
class _Opened:
    """An image, and its number among all entries, from 0."""

    number: int
    name: str
    image: Image.Image


def _open(
    entries: Sequence[Record],
    progress: Progress,
    settings: ReconstructionSettings,
    contest: Contest,
    refuse: Callable[[str, RefusedError], None],
) -> list[_Opened]:
    """The images of a batch; those that can't be used go to `refuse`."""
    batch: list[_Opened] = []
    for entry in entries:
        number = progress.read
        progress.count(entry.name)
        try:
            image = open_entry(entry, contest.limits)
            _require_formats(image, settings)
        except RefusedError as error:
            refuse(entry.name, error)
        else:
            batch.append(_Opened(number, entry.name, image))
    return batch


def _require_formats(image: Image.Image, settings: ReconstructionSettings) -> None:
    longest = max(max(image.size) if side is None else side for side in settings.sizes)
    for name in settings.against:
        if longest > FORMATS[name].max_side:
            raise RefusedError("too-long", f"{longest} pixels a side; {name} takes {FORMATS[name].max_side}")


def _measure(
    batch: Sequence[_Opened], settings: ReconstructionSettings, contest: Contest, progress: Progress, lines: Lines
) -> None:
    """Count a batch in at every size, and write each image's figures down."""
    width = contest.features.width
    for side in settings.sizes:
        size = _size_name(side)
        for opened, pixels in _alike(batch, side):
            for label, rows in contest.measure(pixels, lambda label, size=size: progress.tally(size, label, width)):
                for image, row in zip(opened, rows, strict=True):
                    where = {"number": image.number, "image": image.name, "size": size, "contender": label}
                    lines.write(where | {name: float(f"{value:.6g}") for name, value in row.items()})


def _alike(batch: Sequence[_Opened], side: int | None) -> Iterator[tuple[list[_Opened], UInt8[np.ndarray, "b H W 3"]]]:
    """Neighbours of one size, which pass together; no more pixels at once than memory has room for."""
    sized = [(opened, _pixels(opened.image, side)) for opened in batch]
    for shape, group in groupby(sized, key=lambda pair: pair[1].shape):
        alike, count = list(group), max(1, _BATCH_PIXELS // (shape[0] * shape[1]))
        for start in range(0, len(alike), count):
            part = alike[start : start + count]
            yield [opened for opened, _ in part], np.stack([pixels for _, pixels in part])


def _pixels(image: Image.Image, side: int | None) -> UInt8[np.ndarray, "H W 3"]:
    return np.asarray(image if side is None else fit_image(image, (side, side)))


def _size_name(side: int | None) -> str:
    return OWN if side is None else f"{side}x{side}"


def _report(settings: ReconstructionSettings, contest: Contest, progress: Progress) -> dict[str, Any]:
    results = []
    for size in map(_size_name, settings.sizes):
        originals = progress.tallies[size, ORIGINALS].features
        for label in (*contest.codecs, *contest.formats):
            kind = "tokenizer" if label in contest.codecs else label
            named = {"contender": label, "kind": kind, "size": size}
            results.append(named | figures(progress.tallies[size, label], originals))
    return {
        "format": 2,
        "feature_network": contest.features.title,
        "distance": contest.distance.title,
        "settings": settings.model_dump(mode="json"),
        "results": results,
        "refused": [{"reason": reason, "images": count} for reason, count in progress.refused.most_common()],
    }


def _draw(
    images: ImageStream, settings: ReconstructionSettings, contest: Contest, out: Path, wanted: int | None
) -> None:
    """The sheet, for which the chosen images are opened again."""
    if wanted == 0:
        (out / SHEET).unlink(missing_ok=True)
        return
    size, first = _size_name(settings.sizes[0]), settings.tokenizers[0].label
    lines = (line for line in read_lines(out / IMAGES) if line["size"] == size and line["contender"] == first)
    ranked = sorted((-line["psnr"], line["number"]) for line in lines)
    numbers = {ranked[rank][1]: (rank, note) for rank, note in choose(len(ranked), wanted)}
    rows: dict[int, Row] = {}
    for number, entry in enumerate(images):
        if number in numbers:
            rank, note = numbers[number]
            pixels = _pixels(open_entry(entry, contest.limits), settings.sizes[0])
            rows[rank] = _row(pixels, f"{note}{Path(entry.name).name}", contest)
    with atomic_path(out / SHEET) as temporary:
        draw_sheet([rows[rank] for rank in sorted(rows)]).save(temporary, format="PNG")


def _row(pixels: UInt8[np.ndarray, "H W 3"], name: str, contest: Contest) -> Row:
    images, num_pixels = np.stack([pixels]), pixels.shape[0] * pixels.shape[1]
    original = contest.to_signed(images)
    row: Row = [(Image.fromarray(pixels), (name, f"{pixels.shape[1]} x {pixels.shape[0]} pixels"))]
    for label, result in contest.results(images):
        quality = psnr(contest.to_signed(result.images), original).item()
        text = f"{quality:.1f} dB, {result.bits[0] / num_pixels:.2f} bits/pixel"
        row.append((Image.fromarray(result.images[0]), (label, text)))
    return row
