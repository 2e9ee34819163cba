"""`bitvar data`: captioned sets."""

from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.report import exit_codes

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
