"""The command `bitvar`. Verbs load what they need when they run, so `--help` is instant."""

import typer

from bitvar.cli.train import train

app = typer.Typer(
    name="bitvar",
    help="Bitwise visual autoregressive image generation: Infinity, from prompt to picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.command()(train)


@app.callback()
def _callback() -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    app()
