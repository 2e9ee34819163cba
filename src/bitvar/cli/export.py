"""`bitvar export RUN DEST`."""

from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.exit_codes import exit_codes


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of `bitvar train`, finished or not.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    step: Annotated[
        int | None, typer.Option(min=0, help="Step of the checkpoint to export. Default: the newest.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Export the checkpoint with the best validation metric.")
    ] = False,
    tokenizer: Annotated[str | None, typer.Option(help="As given to `bitvar train`; transformer runs.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="As given to `bitvar train`; transformer runs.")] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="As given to `bitvar train`: the model that adapters change, or whose tokenizer and text encoder a"
            " transformer uses.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the name of the folder RUN.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Precision of a transformer's weights in the file: fp32, bf16 or fp16. Default: fp32."),
    ] = None,
) -> None:
    """Turn a checkpoint's averaged weights into a model folder, a tokenizer folder or an adapter."""
    with exit_codes():
        from bitvar.cli.echo import say
        from bitvar.training.export import export_run

        made = export_run(
            run, destination, step=step, best=best, tokenizer=tokenizer, text_encoder=text_encoder, init=initial,
            name=name, dtype=dtype,
        )  # fmt: skip
        say(str(made))
