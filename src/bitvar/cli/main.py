"""The command `bitvar`. Verbs load what they need when they run, so `--help` is instant."""

import difflib
import sys

import click
import typer

from bitvar.cli import bench, data
from bitvar.cli.convert import convert
from bitvar.cli.doctor import doctor
from bitvar.cli.generate import generate
from bitvar.cli.train import train

app = typer.Typer(
    name="bitvar",
    help="Bitwise visual autoregressive image generation: Infinity, from prompt to picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for verb in (generate, train, convert, doctor):
    app.command()(verb)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point of the console script. Usage errors exit with 2, an interrupt with 130."""
    try:
        code = app(standalone_mode=False)
    except click.NoSuchOption as error:
        sys.exit(_usage(f"Unknown option {error.option_name}.", "there is no such option", error.possibilities))
    except click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        sys.exit(0)
    except click.UsageError as error:
        sys.exit(_usage_error(error))
    except (click.Abort, KeyboardInterrupt):
        typer.echo("Cancelled.", err=True)
        sys.exit(130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_error(error: click.UsageError) -> int:
    message = error.format_message()
    word = message.split("'")[1] if message.startswith("No such command") else None
    if word is not None and isinstance(error.ctx and error.ctx.command, click.Group):
        assert error.ctx is not None
        assert isinstance(error.ctx.command, click.Group)
        near = difflib.get_close_matches(word, list(error.ctx.command.commands), n=1, cutoff=0.5)
        return _usage(f"Unknown command {word!r}.", "there is no such verb", near)
    return _usage(message, "the command line is off", None)


def _usage(what: str, why: str, possibilities: "list[str] | None") -> int:
    from bitvar.errors import explain

    todo = f"did you mean {possibilities[0]}?" if possibilities else "see `bitvar --help`"
    typer.echo(explain(what, why, todo), err=True)
    return 2
