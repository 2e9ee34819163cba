"""`bitvar report RUN`."""

from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.exit_codes import exit_codes


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of `bitvar train`, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write. Default: RUN/report.html.")
    ] = None,
) -> None:
    """Write an HTML page about a run: curves, sample sheets over time, and signs of trouble with what to try."""
    with exit_codes():
        from bitvar.cli.echo import say
        from bitvar.files import write_text
        from bitvar.training.monitor.report import build_report

        page = build_report(run, log=lambda line: say(line, err=True))
        path = output or run / "report.html"
        write_text(path, page)
        say(str(path))
