"""The `bitvar` command. Each subcommand imports its modules when it runs, so that `--help` is fast."""

import sys
import warnings
from typing import Annotated

import typer

from bitvar import __version__
from bitvar.cli import bench, data, evaluate, models, provenance, tokenizer, watermark
from bitvar.cli.completion import add_completions, is_completing
from bitvar.cli.convert import convert
from bitvar.cli.doctor import doctor
from bitvar.cli.edit import edit
from bitvar.cli.exit_codes import CANCELLED, OK, USAGE, exit_codes, finish_output, hold_standard_streams
from bitvar.cli.export import export
from bitvar.cli.fit import fit
from bitvar.cli.generate import generate
from bitvar.cli.instruct import instruct
from bitvar.cli.mcp import mcp
from bitvar.cli.report import report
from bitvar.cli.serve import demo, serve
from bitvar.cli.study import study
from bitvar.cli.train import train

app = typer.Typer(
    name="bitvar",
    help="Bitwise visual autoregressive image generation: Infinity, from prompt to image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(requested: bool) -> bool:
    if requested:
        typer.echo(f"bitvar {__version__}")
        raise typer.Exit(OK)
    return requested


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Bitwise visual autoregressive image generation: Infinity, from prompt to image."""


for verb in (generate, edit, instruct, demo, serve, mcp, fit, train, study, report, export, convert, doctor):
    app.command()(verb)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(models.app, name="models")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(watermark.app, name="watermark")
app.add_typer(provenance.app, name="provenance")
app.add_typer(bench.app, name="bench")


_UsageError = typer.BadParameter.__mro__[1]  # typer's bundled click, which moves between versions of typer


def main() -> None:
    """Run the console script. Usage errors exit with 2 and an interrupt with 130, without a traceback."""
    hold_standard_streams()
    warnings.formatwarning = _plain_warning
    try:
        with exit_codes():
            code = _run()
            finish_output()
    except typer.Exit as stop:
        code = stop.exit_code
    sys.exit(code if isinstance(code, int) else OK)


def _run() -> object:
    stdout = sys.stdout
    if is_completing():
        add_completions(app)
    try:
        return app(standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("Cancelled.", err=True)
        return CANCELLED
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer turns it into exit code 1 and replaces stdout
            sys.stdout = stdout
            raise stop.__context__ from None
        return stop.code
    except Exception as error:
        if not isinstance(error, _UsageError):
            raise
        return _usage(error)


def _plain_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> str:
    """Format a warning without its source location. Warnings other than `UserWarning` keep their class name."""
    return f"{message}\n" if category is UserWarning else f"{category.__name__}: {message}\n"


def _usage(error: Exception) -> int:
    from bitvar.errors import explain

    message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return OK
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "bitvar"
    is_split_prompt = path.endswith(" generate") and "unexpected extra argument" in message
    fix = f"{'put the prompt in quotes, or ' if is_split_prompt else ''}see `{path} --help`"
    typer.echo(explain(message, fix=fix), err=True)
    return USAGE


if __name__ == "__main__":
    main()
