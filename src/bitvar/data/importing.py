"""Importing captioned images into a set ready for training: decoded, brought to one size, split, written atomically."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from bitvar.data.index import allows_duplicates, read_source
from bitvar.data.index_writing import NO_VALIDATION
from bitvar.data.layouts import SET_TABLE
from bitvar.data.records import DEFAULT_OPTIONS, RawSample, ReadOptions, Record, Rejected
from bitvar.data.roots import root_cure
from bitvar.data.validation import Accepted, Summary, validate
from bitvar.data.writing import finish_folder, image_path, json_lines, prepare_folder
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.imaging.fitting import MUCH_LOST, Fit, lost_area
from bitvar.imaging.open import ImageLimits
from bitvar.imaging.sheet import contact_sheet

CONTACT_SHEET: Final = "contact_sheet.png"
DEFAULT_FIT: Final = Fit()


def import_set(
    source: Path | Iterable[Record],
    destination: Path,
    *,
    size: tuple[int, int],
    fit: Fit = DEFAULT_FIT,
    options: ReadOptions = DEFAULT_OPTIONS,
    allow_duplicates: bool = False,
    validation: float = 0.05,
    max_bad_fraction: float = 0.01,
    limits: ImageLimits | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Write a captioned set from an index, any layout that `layouts.read_records` reads, or records.

    Samples keep the split their source gives. From the others, samples chosen by `RawSample.key` alone go to "val", so
    that it holds the share `validation` of all samples, and at least one. `rejected.jsonl` names every sample left out,
    with its reason, and `contact_sheet.png` shows a choice of the written images. `samples.jsonl` is written last.

    Args:
        source: A folder or file, or the records of a reader.
        destination: A new folder.
        size: Width and height in pixels, multiples of the tokenizer's stride.
        fit: The way images of another ratio are brought to that size.
        options: Options for reading the source.
        allow_duplicates: Keep samples whose image an earlier accepted sample has.
        validation: Share of the samples for validation, 0 to 1.
        max_bad_fraction: Largest share of rejected samples, 0 to 1.
        limits: Bounds on an image's size and shape.
        log: Receives lines of text on progress, and on the area that was cropped away.

    Returns:
        Counts of the samples, with the splits as written and the sizes of the original images.

    Raises:
        UsageError: If too many samples are rejected, fewer than two are accepted, or `destination` holds anything else.
    """
    if (destination / SET_TABLE).exists():
        why = "it already holds a captioned set"
        raise UsageError(f"Can't import into {destination}.", why, "choose another folder, or delete this one")
    summary, rows, keys, rejected = Summary(), list[dict[str, Any]](), list[str](), list[Rejected]()
    if isinstance(source, Path):
        allow_duplicates = allow_duplicates or allows_duplicates(source)
        records = read_source(
            source, options, other_files=summary.other_files
        )  # raises its errors before anything is written
    else:
        records = source
    prepare_folder(destination, source=source if isinstance(source, Path) else None)
    samples = validate(
        records,
        lambda image: (image.size, fit.apply(image, size)),
        limits=limits or ImageLimits(),
        allow_duplicates=allow_duplicates,
    )
    cut = 0
    for sample in samples:
        if isinstance(sample, Rejected):
            summary.add(sample)
            rejected.append(sample)
            continue
        original, image = sample.result
        cut += fit.kind != "pad" and lost_area(original, size) > MUCH_LOST
        summary.add(Accepted(sample.raw_sample, original))
        path = image_path(len(rows))
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(destination / path)
        rows.append(_row(path, sample.raw_sample, size))
        keys.append(sample.raw_sample.key)
        if len(rows) % 1000 == 0:
            log(f"imported {len(rows):,} images, rejected {len(rejected):,}")
    write_text(destination / "rejected.jsonl", json_lines(vars(rejection) for rejection in rejected))
    cure = root_cure(source, summary, options) if isinstance(source, Path) else None
    summary.require(max_bad_fraction, cure=cure)
    if len(rows) < 2:
        why = "training and validation need at least one sample each"
        raise UsageError("There is only one usable sample.", why, "add images")
    log(fit.describe(cut, len(rows)))
    contact_sheet([destination / row["image_path"] for row in rows], destination / CONTACT_SHEET)
    _split(rows, keys, validation)
    summary.splits = Counter(row["split"] for row in rows)
    if all(row["split"] != "val" for row in rows):
        log(NO_VALIDATION)
    manifest = {"size": list(size), "samples": len(rows), "rejected": dict(summary.rejected)}
    finish_folder(destination, rows, manifest)
    return summary


def _row(path: Path, raw_sample: RawSample, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "image_path": path.as_posix(),
        "h_div_w": size[1] / size[0],
        "captions": list(raw_sample.captions),
        "split": raw_sample.split,
        "source": raw_sample.name,
    }


def _split(rows: list[dict[str, Any]], keys: list[str], validation: float) -> None:
    """Give a split to every row without one. Which rows go to "val" depends on their keys alone, not on their order.

    Rows with the same key are captions of one image and stay together, since validation on an image seen in training
    means nothing. They are separated only if there is no other key.
    """
    free: dict[str, list[dict[str, Any]]] = {}
    for key, row in zip(keys, rows, strict=True):
        if row["split"] is None:
            row["split"] = "train"
            free.setdefault(key, []).append(row)
    given = sum(row["split"] == "val" for row in rows)
    wanted = max(0 if given else 1, math.ceil(validation * len(rows)) - given)
    by_hash = sorted(free, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    held_out: list[dict[str, Any]] = []
    for key in by_hash:
        if len(held_out) + len(free[key]) <= wanted:
            held_out += free[key]
    if free and not held_out and not given:
        smallest = min((free[key] for key in by_hash), key=len)
        held_out = smallest if len(set(keys)) > 1 else smallest[:wanted]
    for row in held_out:
        row["split"] = "val"
