"""Anybody's captioned images to a set that trains: decoded, cut to one size, split, written whole or not at all."""

import hashlib
import math
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
CUT_AROUND_THE_MIDDLE: Final = Fit()


def import_set(
    source: Path | Iterable[Record],
    destination: Path,
    *,
    size: tuple[int, int],
    fit: Fit = CUT_AROUND_THE_MIDDLE,
    options: ReadOptions = DEFAULT_OPTIONS,
    allow_duplicates: bool = False,
    validation: float = 0.05,
    max_bad_fraction: float = 0.01,
    limits: ImageLimits | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Write the captioned set `destination` from an index, any layout that `layouts.read_records` knows, or records.

    Samples keep the split their source names; of the others, `validation` of all (at least one), chosen by
    `RawSample.key` alone, go to "val". `rejected.jsonl` names every sample left out, with its reason, and
    `contact_sheet.png` shows some of what was made. `samples.jsonl` is written last.

    Args:
        source: a folder or file, or what a reader yields.
        destination: a new folder.
        size: width and height in pixels, multiples of the tokenizer's stride.
        fit: how images of another ratio come to that size.
        options: how samples are read, where there is a choice.
        allow_duplicates: keep samples whose image an earlier one has.
        validation: share of the samples, 0 to 1.
        max_bad_fraction: largest share of rejected samples, 0 to 1.
        limits: what an image may be.
        log: receives a line of text now and then, and what the fit cut off.

    Raises:
        UsageError: when too many samples are rejected, fewer than two are good, or `destination` holds something else.
    """
    if (destination / SET_TABLE).exists():
        why = "it already holds a captioned set"
        raise UsageError(f"Can't import into {destination}.", why, "choose another folder, or delete this one")
    summary, rows, keys, rejected = Summary(), list[dict[str, Any]](), list[str](), list[Rejected]()
    if isinstance(source, Path):
        allow_duplicates = allow_duplicates or allows_duplicates(source)
        records = read_source(source, options, other_files=summary.other_files)  # speaks up before anything is written
    else:
        records = source
    prepare_folder(destination, source=source if isinstance(source, Path) else None)
    made = validate(
        records,
        lambda image: (image.size, fit.apply(image, size)),
        limits=limits or ImageLimits(),
        allow_duplicates=allow_duplicates,
    )
    cut = 0
    for sample in made:
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
        why = "one image is too few: training needs some, and validation at least one"
        raise UsageError("There is one usable sample.", why, "add images")
    log(fit.text(cut, len(rows)))
    contact_sheet([destination / row["image_path"] for row in rows], destination / CONTACT_SHEET)
    _split(rows, keys, validation)
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
    """Give every row without a split one: which ones are "val" depends on their keys alone, not on their order.

    Rows of one key are captions of one image, and stay together: a model that has trained on an image can't show on it
    what it makes of others. They are parted only where there is no other key.
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
