"""What `bitvar train` shows while it runs: a live line in a terminal, plain short lines in a file or a pipe."""

import sys
from collections.abc import Mapping
from typing import Any

import typer

from bitvar.cli.names import printable
from bitvar.training.monitor.progress import format_metrics


class Display:
    """Shows lines, and in a terminal a bar below them. Writes to stderr.

    Args:
        steps: of the whole run.
        quiet: show nothing: another rank does.
        live: draw the bar; by default, if stderr is a terminal.
    """

    def __init__(self, steps: int, *, quiet: bool = False, live: bool | None = None) -> None:
        self.steps, self.quiet = steps, quiet
        self._live = sys.stderr.isatty() if live is None else live
        self._progress: Any = None
        self._bar: Any = None

    def tell(self, line: str) -> None:
        """Show a line of text. Lines of training steps are left to the bar where there is one."""
        if self.quiet or (self._live and line.startswith("step ")):
            return
        if self._progress is None:
            typer.echo(printable(line), err=True)
        else:
            style = "yellow" if line.startswith("WARNING") else None
            self._progress.console.print(printable(line), markup=False, highlight=False, style=style, soft_wrap=True)

    def follow(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar to a step, with the last figures."""
        if self.quiet or not self._live:
            return
        if self._progress is None:
            self._progress = self._begin()
        self._progress.update(self._bar, completed=step, figures="  ".join(format_metrics(values)))

    def _begin(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._bar = progress.add_task("", total=self.steps, figures="")
        progress.start()
        return progress

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
