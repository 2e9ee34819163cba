"""What `bitvar train` shows while it runs: a progress bar in a terminal, plain lines in a file or a pipe."""

import sys
from collections.abc import Mapping
from typing import Any

from bitvar.cli.echo import printable, say
from bitvar.training.monitor.progress import format_metrics


class Display:
    """Shows lines on stderr and, in a terminal, a progress bar below them.

    Args:
        steps: Steps of the whole run.
        quiet: Whether to show nothing, because another rank does.
        live: Whether to draw the bar; by default, if stderr is a terminal.
    """

    def __init__(self, steps: int, *, quiet: bool = False, live: bool | None = None) -> None:
        self.steps, self.quiet = steps, quiet
        self._live = sys.stderr.isatty() if live is None else live
        self._progress: Any = None
        self._bar: Any = None

    def log(self, line: str) -> None:
        """Show a line of text. Lines of training steps are left to the bar, where there is one."""
        if self.quiet or (self._live and line.startswith("step ")):
            return
        if self._progress is None:
            say(line, err=True)
        else:
            style = "yellow" if line.startswith("WARNING") else None
            self._progress.console.print(printable(line), markup=False, highlight=False, style=style, soft_wrap=True)

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar to a step, and show the latest metrics beside it."""
        if self.quiet or not self._live:
            return
        figures = "  ".join(format_metrics(values))
        if self._progress is None:
            self._progress = self._start(step, figures)
        self._progress.update(self._bar, completed=step, figures=figures)

    def _start(self, step: int, figures: str) -> Any:
        """Draw the bar for the first time, at the step that was just made: a resumed run's is not the first."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._bar = progress.add_task("", total=self.steps, completed=step, figures=figures)
        progress.start()
        return progress

    def close(self) -> None:
        """Stop drawing, and leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
