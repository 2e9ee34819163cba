"""The command `bitvar`. Verbs load what they need when they run, so `--help` is instant."""

import sys

import typer

from bitvar.cli import bench, data, evaluate, tokenizer
from bitvar.cli.convert import convert
from bitvar.cli.doctor import doctor
from bitvar.cli.exit_codes import CANCELLED, OK, USAGE
from bitvar.cli.export import export
from bitvar.cli.generate import generate
from bitvar.cli.report import report
from bitvar.cli.train import train

app = typer.Typer(
    name="bitvar",
    help="Bitwise visual autoregressive image generation: Infinity, from prompt to picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for verb in (generate, train, report, export, convert, doctor):
    app.command()(verb)
app.add_typer(data.app, name="data")
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bench.app, name="bench")


_UsageError = typer.BadParameter.__mro__[1]  # typer's own click, wherever this version of typer keeps it


def main() -> None:
    """Entry point of the console script. Usage errors exit with 2, an interrupt with 130; no traceback."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("Cancelled.", err=True)
        code = CANCELLED
    except Exception as error:
        if not isinstance(error, _UsageError):
            raise
        code = _usage(error)
    sys.exit(code if isinstance(code, int) else OK)


def _usage(error: Exception) -> int:
    from bitvar.errors import explain

    message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return OK
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "bitvar"
    typer.echo(explain(message, "the command line is off", f"see `{path} --help`"), err=True)
    return USAGE


if __name__ == "__main__":
    main()
