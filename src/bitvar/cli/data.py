"""`bitvar data`: checking, importing, indexing and describing captioned images."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitvar.cli import data_report
from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.data.records import ReadOptions, Record
    from bitvar.imaging.fitting import Fit

app = typer.Typer(help="Captioned image sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def icons(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[int, typer.Option(min=16, max=512, help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    still: Annotated[
        bool,
        typer.Option(
            "--still", help="Draw every object at one size and centered in its place, which is easier for small models."
        ),
    ] = False,
    scenes: Annotated[int, typer.Option(min=0, help="Number of composed scenes to make for training.")] = 24000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Download openly licensed icons and write a captioned set of scenes, with attribution."""
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


SOURCE_HELP = "Folder of images with caption files, a .jsonl, .csv, .tsv or .tar file, or an index."
Source = Annotated[Path, typer.Argument(metavar="SRC", help=SOURCE_HELP)]
Validation = Annotated[float, typer.Option(min=0, max=0.5, help="Share of the samples to keep for validation.")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Largest share of samples that may be rejected.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder that relative paths in tables start from [default: each table's own folder]."
    ),
]
AllowDuplicates = Annotated[
    bool, typer.Option("--allow-duplicates", help="Keep samples that share an image with an earlier sample.")
]
CaptionLines = Annotated[bool, typer.Option("--caption-lines", help="Read every line of a text file as a caption.")]
Caption = Annotated[str | None, typer.Option(metavar="TEXT", help="Caption for samples that have none.")]
FromNames = Annotated[
    bool,
    typer.Option("--captions-from-names", help="Caption samples that have none with the words of their file names."),
]


def _log(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def check(
    source: Source,
    report: Annotated[Path | None, typer.Option(help="File to write all rejected samples to, as JSON lines.")] = None,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            help="Count the captions that are too long for a model with this text encoder; as for `bitvar train`."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="With --text-encoder: number of tokens that the model reads [default: 512]."),
    ] = None,
    max_bad_fraction: MaxBad = 0.01,
    as_json: AsJson = False,
) -> None:
    """Open every sample, name those that can't be used, and print statistics.

    For an index, its own files are checked first, and also the sha256 of every image if it has them.
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
        options = _read_options(root, caption_lines, caption, captions_from_names)
        summary, rejected = Summary(), list[Rejected]()
        samples = validate(
            read_source(source, options, other_files=summary.other_files),
            lambda image: image.size,
            limits=ImageLimits(),
            allow_duplicates=allow_duplicates or allows_duplicates(source),
        )
        for sample in samples:
            summary.add(sample)
            if isinstance(sample, Rejected):
                rejected.append(sample)
            else:
                long.add(sample.raw_sample.captions)
            if (done := summary.accepted + summary.num_rejected) % 10_000 == 0:
                _log(f"checked {done:,} samples, rejected {summary.num_rejected:,}")
        if report is not None:
            write_text(report, json_lines(vars(rejection) for rejection in rejected))
        if as_json:
            found = data_report.as_json(summary) | long.as_json()
            typer.echo(json.dumps(found | {"samples": [vars(rejection) for rejection in rejected]}))
        else:
            typer.echo(data_report.check_text(summary, rejected, everything_is_reported=report is not None))
            if text := long.text():
                typer.echo(text)
        summary.require(max_bad_fraction, cure=root_cure(source, summary, options))


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help=f"{SOURCE_HELP} Or hf:NAME for a data set of the Hugging Face hub.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[str, typer.Option(help="Size of the images in pixels: one side, or WIDTHxHEIGHT.")] = "64",
    fit: Annotated[
        str,
        typer.Option(
            metavar="cover|smart|pad",
            help="How to bring images of another ratio to the size: crop around the middle, to the strongest edges,"
            " or pad.",
        ),
    ] = "cover",
    pad_color: Annotated[
        str | None, typer.Option(metavar="COLOR", help="With --fit pad: a color name or #rrggbb [default: white].")
    ] = None,
    root: Root = None,
    allow_duplicates: AllowDuplicates = False,
    caption_lines: CaptionLines = False,
    caption: Caption = None,
    captions_from_names: FromNames = False,
    validation: Validation = 0.05,
    max_bad_fraction: MaxBad = 0.01,
    split: Annotated[str | None, typer.Option(help="For hf:NAME: split to read [default: train].")] = None,
    image_column: Annotated[
        str | None, typer.Option(help="For hf:NAME: column of the images [default: image].")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="For hf:NAME: column of the captions [default: text].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn your own captioned images into a training set: images of one size, and a validation split."""
    with exit_codes():
        from bitvar.data.importing import CONTACT_SHEET, import_set

        options, pixels = _read_options(root, caption_lines, caption, captions_from_names), _read_size(size)
        summary = import_set(
            _read_source(source, options, split, image_column, caption_column),
            destination,
            size=pixels,
            fit=_read_fit(fit, pad_color),
            options=options,
            allow_duplicates=allow_duplicates,
            validation=validation,
            max_bad_fraction=max_bad_fraction,
            log=_log,
        )
        if summary.num_rejected:
            _log(f"rejected {summary.num_rejected:,}: listed in {destination / 'rejected.jsonl'}")
        if other_files := data_report.other_files_text(summary):
            _log(other_files)
        _log(f"contact sheet: {destination / CONTACT_SHEET}")
        if as_json:
            typer.echo(json.dumps(data_report.as_json(summary) | {"size": list(pixels)}))
        else:
            typer.echo(f"{destination}: {data_report.written_text(summary, pixels)}")


@app.command()
def index(
    source: Source,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    content_hash: Annotated[
        bool, typer.Option("--content-hash", help="Store the sha256 of every image, to detect changed ones.")
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
    """Check every sample once, and write an index of the accepted ones, grouped by split and ratio.

    The images stay where they are. Use an index for sets that are too large to copy.
    """
    with exit_codes():
        from bitvar.data.index_writing import build_index

        summary = build_index(
            source,
            destination,
            content_hash=content_hash,
            options=_read_options(root, caption_lines, caption, captions_from_names),
            allow_duplicates=allow_duplicates,
            validation=validation,
            max_bad_fraction=max_bad_fraction,
            log=_log,
        )
        if summary.num_rejected:
            _log(f"rejected {summary.num_rejected:,}: listed in {destination / 'rejected.jsonl'}")
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
    """Print the splits, ratios, sizes and caption lengths of the accepted samples.

    For an index, no image is opened.
    """
    with exit_codes():
        from bitvar.data.index import SampleIndex, is_index, read_source
        from bitvar.data.validation import Summary, validate
        from bitvar.imaging.open import ImageLimits

        options = _read_options(root, caption_lines, caption, captions_from_names)
        summary = Summary()
        records = read_source(source, options, other_files=summary.other_files)
        if is_index(source):
            summary = SampleIndex.open(source).summary()
        else:
            limits = ImageLimits()
            for sample in validate(records, lambda image: image.size, limits=limits, allow_duplicates=allow_duplicates):
                summary.add(sample)
        typer.echo(json.dumps(data_report.as_json(summary)) if as_json else data_report.as_text(summary))


def _read_options(
    root: Path | None, caption_lines: bool, caption: str | None, captions_from_names: bool
) -> "ReadOptions":
    from bitvar.data.records import ReadOptions, fold_captions
    from bitvar.errors import UsageError
    from bitvar.imaging.open import RefusedError

    if root is not None and not root.is_dir():
        raise UsageError(f"There is no folder {root}.", "--root must name one", "check the path")
    if caption is not None:
        try:
            (caption,) = fold_captions([caption])
        except RefusedError as error:
            raise UsageError("Can't use --caption.", error.detail, "give another text") from None
    return ReadOptions(root, caption_lines, caption, captions_from_names)


def _read_fit(kind: str, colour: str | None) -> "Fit":
    from bitvar.errors import UsageError
    from bitvar.imaging.fitting import Fit

    if colour is not None and kind != "pad":
        raise UsageError("--pad-color can't be used here.", f"--fit {kind} doesn't pad", "add --fit pad")
    return Fit(kind, colour or "white")


def _read_source(
    source: str, options: "ReadOptions", split: str | None, image_column: str | None, caption_column: str | None
) -> "Path | Iterable[Record]":
    from bitvar.data.huggingface import read_dataset
    from bitvar.errors import UsageError

    if source.startswith("hf:"):
        for name, value in {
            "--root": options.root, "--caption-lines": options.caption_lines,
            "--captions-from-names": options.captions_from_names,
        }.items():  # fmt: skip
            if value:
                why = f"{source} is a data set of the hub, whose images aren't files"
                raise UsageError(f"{name} can't be used here.", why, "leave it out")
        return read_dataset(
            source.removeprefix("hf:"),
            split=split or "train",
            image_column=image_column or "image",
            caption_column=caption_column or "text",
            options=options,
        )
    given = {"--split": split, "--image-column": image_column, "--caption-column": caption_column}
    if names := [name for name, value in given.items() if value is not None]:
        todo = "leave it out, or give the source as hf:NAME"
        raise UsageError(f"{names[0]} can't be used here.", f"{source} is not a data set hf:NAME", todo)
    return Path(source)


def _read_size(text: str) -> tuple[int, int]:
    from bitvar.errors import UsageError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch(r"[0-9]{1,6}", part) and 8 <= int(part) <= 4096 for part in parts):
        raise UsageError(
            f"Can't read the size {text!r}.", "sides are 8 to 4096 pixels", "give, for example, 64 or 96x64"
        )
    return int(parts[0]), int(parts[-1])
