"""`bitvar data`: captioned sets."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from bitvar.data.check import Summary
    from bitvar.data.layouts import Refusal

app = typer.Typer(help="Captioned picture sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _callback() -> None:
    pass


@app.command()
def icons(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[int, typer.Option(min=16, max=512, help="Side of the pictures in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    still: Annotated[
        bool,
        typer.Option("--still", help="Every object of one size, in the middle of its place: easier for small models."),
    ] = False,
    scenes: Annotated[int, typer.Option(min=0, help="How many composed scenes to make for training.")] = 24000,
) -> None:
    """Fetch openly licensed icons by package name and write a captioned set with attribution."""
    with exit_codes():
        try:
            from bitvar.data.icons import build_icon_set
        except ModuleNotFoundError as error:
            from bitvar.errors import UsageError, explain

            raise UsageError(
                explain("Can't render the icons.", f"the package {error.name} is missing", "install bitvar with [data]")
            ) from None
        summary = build_icon_set(
            destination,
            size=size,
            seed=seed,
            num_scenes=scenes,
            jitter=not still,
            progress=lambda line: typer.echo(line, err=True),
        )
        typer.echo(summary)


Source = Annotated[
    Path,
    typer.Argument(metavar="SRC", help="Folder of pictures with captions beside them, or .jsonl, .csv, .tsv, .tar."),
]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Largest share of samples that may be unusable.")]


@app.command()
def check(
    source: Source,
    report: Annotated[Path | None, typer.Option(help="Write every refused sample here, as JSON lines.")] = None,
    max_bad_fraction: MaxBad = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Open every sample, name every one that can't be used, and say how many there are of what."""
    with exit_codes():
        from bitvar.data.check import Summary, go_through
        from bitvar.data.layouts import Refusal, read_entries
        from bitvar.data.pictures import PictureLimits
        from bitvar.data.writing import json_lines
        from bitvar.files import write_text

        summary, refused = Summary(), list[Refusal]()
        for sample in go_through(read_entries(source), lambda image: image.size, limits=PictureLimits()):
            summary.add(sample)
            if isinstance(sample, Refusal):
                refused.append(sample)
            if (done := summary.good + summary.num_refused) % 10_000 == 0:
                typer.echo(f"checked {done:,} samples, refused {summary.num_refused:,}", err=True)
        if report is not None:
            write_text(report, json_lines(vars(refusal) for refusal in refused))
        typer.echo(json.dumps(_as_json(summary, refused)) if as_json else _as_text(summary, refused, report))
        summary.require(max_bad_fraction)


@app.command("import")
def import_(
    source: Source,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    size: Annotated[str, typer.Option(help="Side of the pictures in pixels, or WIDTHxHEIGHT.")] = "64",
    validation: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the samples kept for validation.")] = 0.05,
    max_bad_fraction: MaxBad = 0.01,
) -> None:
    """Turn your own captioned pictures into a set that trains: all of one size, with a validation split."""
    with exit_codes():
        from bitvar.data.importing import import_set

        summary = import_set(
            source,
            destination,
            size=_read_size(size),
            validation=validation,
            max_bad_fraction=max_bad_fraction,
            progress=lambda line: typer.echo(line, err=True),
        )
        if summary.num_refused:
            typer.echo(f"refused {summary.num_refused:,}: see {destination / 'refused.jsonl'}", err=True)
        typer.echo(f"{destination}  {summary.good:,} pictures of {size} pixels")


def _read_size(text: str) -> tuple[int, int]:
    from bitvar.errors import UsageError, explain

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 8 <= int(part) <= 4096 for part in parts):
        raise UsageError(explain(f"Can't read the size {text!r}.", "sides are 8 to 4096 pixels", "write 64 or 96x64"))
    return int(parts[0]), int(parts[-1])


def _as_json(summary: "Summary", refused: "list[Refusal]") -> dict[str, Any]:
    from bitvar.data.check import quantiles

    return {
        "good": summary.good,
        "refused": dict(summary.refused.most_common()),
        "ratios": _ratios(summary),
        "shorter_side": quantiles(_sides(summary)),
        "caption_words": quantiles(summary.captions),
        "samples": [vars(refusal) for refusal in refused],
    }


def _as_text(summary: "Summary", refused: "list[Refusal]", report: Path | None) -> str:
    from bitvar.data.check import quantiles

    lines = [f"{summary.good:,} samples are good, {summary.num_refused:,} can't be used ({summary.bad_fraction:.1%})"]
    for reason, count in summary.refused.most_common():
        lines.append(f"  {reason}: {count:,}")
        examples = [refusal for refusal in refused if refusal.reason == reason]
        lines += [f"    {refusal.name}: {refusal.detail}" for refusal in examples[:3]]
    if any(count > 3 for count in summary.refused.values()) and report is None:
        lines.append("  all of them: --report FILE")
    for title, counts in (("shorter side, pixels", _sides(summary)), ("words a caption", summary.captions)):
        if counts:
            lines.append(f"{title}: " + ", ".join(f"{name} {value}" for name, value in quantiles(counts).items()))
    if ratios := _ratios(summary):
        lines.append("nearest ratio (height / width): " + ", ".join(f"{r} {count:,}" for r, count in ratios.items()))
    return "\n".join(lines)


def _sides(summary: "Summary") -> Counter[int]:
    counts: Counter[int] = Counter()
    for size, count in summary.sizes.items():
        counts[min(size)] += count
    return counts


def _ratios(summary: "Summary") -> dict[str, int]:
    """Pictures by the official ratio nearest to theirs, most common first."""
    from bitvar.scales import nearest_ratio

    counts: Counter[str] = Counter()
    for (width, height), count in summary.sizes.items():
        counts[nearest_ratio(height / width)] += count
    return dict(counts.most_common())
