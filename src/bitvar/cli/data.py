"""`bitvar data`: captioned sets, indexes of them, and what is in either."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli import data_report
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.data.records import Reading, Record
    from bitvar.imaging.fitting import Fit

app = typer.Typer(help="Captioned image sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def icons(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[int, typer.Option(min=16, max=512, help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    still: Annotated[
        bool,
        typer.Option("--still", help="Every object of one size, in the middle of its place: easier for small models."),
    ] = False,
    scenes: Annotated[int, typer.Option(min=0, help="How many composed scenes to make for training.")] = 24000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fetch openly licensed icons by package name and write a captioned set with attribution."""
    with exit_codes():
        try:
            from bitvar.icons.dataset import build_icon_set
        except ModuleNotFoundError as error:
            from bitvar.errors import UsageError, install_hint

            raise UsageError(
                "Can't render the icons.", f"the package {error.name} is missing", install_hint("data")
            ) from None
        summary = build_icon_set(
            destination,
            size=size,
            seed=seed,
            num_scenes=scenes,
            jitter=not still,
            log=lambda line: typer.echo(line, err=True),
        )
        typer.echo(json.dumps(summary.as_json()) if as_json else summary.text())


SOURCE_HELP = "Folder of images with captions beside them, or .jsonl, .csv, .tsv, .tar, or an index."
Source = Annotated[Path, typer.Argument(metavar="SRC", help=SOURCE_HELP)]
Validation = Annotated[float, typer.Option(min=0, max=0.5, help="Share of the samples kept for validation.")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Largest share of samples that may be unusable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder that paths in tables start from [default: each table's own folder]."),
]
AllowDuplicates = Annotated[
    bool, typer.Option("--allow-duplicates", help="Keep samples whose image an earlier one has.")
]
CaptionLines = Annotated[
    bool, typer.Option("--caption-lines", help="A text file holds one caption a line, not one caption.")
]
Caption = Annotated[str | None, typer.Option(metavar="TEXT", help="Caption of every sample that has none.")]
FromNames = Annotated[
    bool, typer.Option("--captions-from-names", help="Caption samples that have none by the words of their file names.")
]


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def check(
    source: Source,
    report: Annotated[Path | None, typer.Option(help="Write every refused sample here, as JSON lines.")] = None,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Count captions that are longer than a model reads, by its encoder: as `bitvar train`."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="With --text-encoder, the tokens that the model reads [default: 512].")
    ] = None,
    max_bad_fraction: MaxBad = 0.01,
    as_json: AsJson = False,
) -> None:
    """Open every sample, name every one that can't be used, and say how many there are of what.

    Of an index, its own files are checked first, and the sha256 of every image if it has them.
    """
    with exit_codes():
        from bitvar.cli.caption_tokens import LongCaptions
        from bitvar.data.index import SampleIndex, allows_duplicates, is_index, read_source
        from bitvar.data.records import Rejected
        from bitvar.data.roots import root_cure
        from bitvar.data.validation import Summary, validate
        from bitvar.data.writing import json_lines
        from bitvar.files import write_text
        from bitvar.imaging.open import ImageLimits

        if is_index(source):
            SampleIndex.open(source).verify_files()
        long = LongCaptions.open(text_encoder, max_tokens)
        reading = _reading(root, caption_lines, caption, captions_from_names)
        summary, refused = Summary(), list[Rejected]()
        samples = validate(
            read_source(source, reading, others=summary.others),
            lambda image: image.size,
            limits=ImageLimits(),
            allow_duplicates=allow_duplicates or allows_duplicates(source),
        )
        for sample in samples:
            summary.add(sample)
            if isinstance(sample, Rejected):
                refused.append(sample)
            else:
                long.add(sample.raw_sample.captions)
            if (done := summary.good + summary.num_refused) % 10_000 == 0:
                _say(f"checked {done:,} samples, refused {summary.num_refused:,}")
        if report is not None:
            write_text(report, json_lines(vars(refusal) for refusal in refused))
        if as_json:
            found = data_report.as_json(summary) | long.as_json()
            typer.echo(json.dumps(found | {"samples": [vars(refusal) for refusal in refused]}))
        else:
            typer.echo(data_report.found_text(summary, refused, everything_is_reported=report is not None))
            if text := long.text():
                typer.echo(text)
        summary.require(max_bad_fraction, cure=root_cure(source, summary, reading))


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help=f"{SOURCE_HELP} Or hf:NAME, a data set of the Hugging Face hub.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[str, typer.Option(help="Side of the images in pixels, or WIDTHxHEIGHT.")] = "64",
    fit: Annotated[
        str,
        typer.Option(
            metavar="cover|smart|pad",
            help="How images of another ratio come to the size: cut around the middle, cut to where their edges are"
            " strongest, or padded.",
        ),
    ] = "cover",
    pad_color: Annotated[
        str | None, typer.Option(metavar="COLOR", help="With --fit pad, a name or #rrggbb [default: white].")
    ] = None,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    validation: Validation = 0.05,
    max_bad_fraction: MaxBad = 0.01,
    split: Annotated[str | None, typer.Option(help="Of hf:NAME, the split to read [default: train].")] = None,
    image_column: Annotated[str | None, typer.Option(help="Of hf:NAME [default: image].")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Of hf:NAME [default: text].")] = None,
) -> None:
    """Turn your own captioned images into a set that trains: all of one size, with a validation split."""
    with exit_codes():
        from bitvar.data.importing import CONTACT_SHEET, import_set

        reading = _reading(root, caption_lines, caption, captions_from_names)
        summary = import_set(
            _read_source(source, reading, split, image_column, caption_column),
            destination,
            size=_read_size(size),
            fit=_read_fit(fit, pad_color),
            reading=reading,
            allow_duplicates=allow_duplicates,
            validation=validation,
            max_bad_fraction=max_bad_fraction,
            progress=_say,
        )
        if summary.num_refused:
            _say(f"refused {summary.num_refused:,}: see {destination / 'refused.jsonl'}")
        if others := data_report.others_text(summary):
            _say(others)
        _say(f"what they look like now: {destination / CONTACT_SHEET}")
        typer.echo(f"{destination}  {summary.good:,} images of {size} pixels")


@app.command()
def index(
    source: Source,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    content_hash: Annotated[
        bool, typer.Option("--content-hash", help="Keep the sha256 of every image, so that a changed one is found.")
    ] = False,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    validation: Validation = 0.05,
    max_bad_fraction: MaxBad = 0.01,
    as_json: AsJson = False,
) -> None:
    """Open every sample once, and write where the good ones are: any number of them, grouped by split and ratio."""
    with exit_codes():
        from bitvar.data.index_writing import build_index

        summary = build_index(
            source,
            destination,
            content_hash=content_hash,
            reading=_reading(root, caption_lines, caption, captions_from_names),
            allow_duplicates=allow_duplicates,
            validation=validation,
            max_bad_fraction=max_bad_fraction,
            progress=_say,
        )
        if summary.num_refused:
            _say(f"refused {summary.num_refused:,}: see {destination / 'refused.jsonl'}")
        typer.echo(json.dumps(data_report.as_json(summary)) if as_json else data_report.as_text(summary))


@app.command()
def stats(
    source: Source,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    as_json: AsJson = False,
) -> None:
    """Splits, ratios, sizes and caption lengths of the good samples. An index answers without opening an image."""
    with exit_codes():
        from bitvar.data.index import SampleIndex, is_index, read_source
        from bitvar.data.validation import Summary, validate
        from bitvar.imaging.open import ImageLimits

        reading = _reading(root, caption_lines, caption, captions_from_names)
        summary = Summary()
        entries = read_source(source, reading, others=summary.others)
        if is_index(source):
            summary = SampleIndex.open(source).summary()
        else:
            limits = ImageLimits()
            for sample in validate(entries, lambda image: image.size, limits=limits, allow_duplicates=allow_duplicates):
                summary.add(sample)
        typer.echo(json.dumps(data_report.as_json(summary)) if as_json else data_report.as_text(summary))


def _reading(root: Path | None, caption_lines: bool, caption: str | None, captions_from_names: bool) -> "Reading":
    from bitvar.data.records import Reading, fold_captions
    from bitvar.errors import UsageError
    from bitvar.imaging.open import RefusedError

    if root is not None and not root.is_dir():
        raise UsageError(f"There is no folder {root}.", "--root names none", "check the path")
    if caption is not None:
        try:
            (caption,) = fold_captions([caption])
        except RefusedError as error:
            raise UsageError("Can't use --caption.", error.detail, "write another text") from None
    return Reading(root, caption_lines, caption, captions_from_names)


def _read_fit(kind: str, colour: str | None) -> "Fit":
    from bitvar.errors import UsageError
    from bitvar.imaging.fitting import Fit

    if colour is not None and kind != "pad":
        raise UsageError("--pad-color can't be used here.", f"--fit {kind} pads nothing", "add --fit pad")
    return Fit(kind, colour or "white")


def _read_source(
    source: str, reading: "Reading", split: str | None, image_column: str | None, caption_column: str | None
) -> "Path | Iterable[Record]":
    from bitvar.data.huggingface import read_dataset
    from bitvar.errors import UsageError

    if source.startswith("hf:"):
        for name, value in {
            "--root": reading.root, "--caption-lines": reading.caption_lines,
            "--captions-from-names": reading.captions_from_names,
        }.items():  # fmt: skip
            if value:
                why = f"{source} is a data set's table, whose images have no files"
                raise UsageError(f"{name} can't be used here.", why, "leave it out")
        return read_dataset(
            source.removeprefix("hf:"),
            split=split or "train",
            image_column=image_column or "image",
            caption_column=caption_column or "text",
            reading=reading,
        )
    given = {"--split": split, "--image-column": image_column, "--caption-column": caption_column}
    if names := [name for name, value in given.items() if value is not None]:
        todo = "leave it out, or name the source hf:NAME"
        raise UsageError(f"{names[0]} can't be used here.", f"{source} is no hf:NAME", todo)
    return Path(source)


def _read_size(text: str) -> tuple[int, int]:
    from bitvar.errors import UsageError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch(r"[0-9]{1,6}", part) and 8 <= int(part) <= 4096 for part in parts):
        raise UsageError(f"Can't read the size {text!r}.", "sides are 8 to 4096 pixels", "write 64 or 96x64")
    return int(parts[0]), int(parts[-1])
