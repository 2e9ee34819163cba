"""`bitvar convert`: official checkpoints to a model or tokenizer folder, and a model folder back to official files."""

from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.echo import say
from bitvar.cli.exit_codes import exit_codes


def convert(
    source: Annotated[
        Path, typer.Argument(help="Official transformer, or a tokenizer alone: a file, or a folder of shards.")
    ],
    destination: Annotated[Path, typer.Argument(help="Folder to create; nothing is overwritten.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Official tokenizer that the transformer was trained with.")
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="Text encoder to put into the model: a folder or hub id, such as google/flan-t5-xl."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the transformer's file name.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Pixel budget that the model was trained on: 0.06M, 0.25M, 0.60M or 1M.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. Default: as in the files.")] = None,
    instruction_editor: Annotated[
        bool,
        typer.Option(
            "--instruction-editor",
            help="The transformer edits images by instructions, like VAREdit. Default for 8B-512 and 8B-1024.",
        ),
    ] = False,
    to_official: Annotated[
        bool, typer.Option("--to-official", help="Convert the model folder SOURCE back to .pth files.")
    ] = False,
) -> None:
    """Convert official checkpoints to a model folder or a tokenizer folder, or back. The source files are only read."""
    with exit_codes():
        if to_official:
            options = {
                "--tokenizer": tokenizer,
                "--text-encoder": text_encoder,
                "--name": name,
                "--budget": budget,
                "--dtype": dtype,
                "--instruction-editor": instruction_editor or None,
            }
            _to_official(source, destination, [option for option, value in options.items() if value is not None])
        else:
            _to_folder(
                source,
                destination,
                tokenizer,
                text_encoder,
                name=name,
                budget=budget,
                dtype=dtype,
                instruction_editor=instruction_editor or None,
            )


def _to_official(folder: Path, destination: Path, unused: list[str]) -> None:
    from bitvar.errors import UsageError
    from bitvar.weights.official.convert import convert_to_official

    if unused:
        raise UsageError(
            f"{', '.join(unused)} can't be used with --to-official.", "the folder has these settings", "leave them out"
        )
    for path in convert_to_official(folder, destination):
        say(str(path))


def _to_folder(
    transformer: Path,
    destination: Path,
    tokenizer: Path | None,
    text_encoder: str | None,
    *,
    name: str | None,
    budget: str | None,
    dtype: str | None,
    instruction_editor: bool | None,
) -> None:
    from bitvar.config import unknown
    from bitvar.errors import UsageError
    from bitvar.runtime.placement import DTYPES
    from bitvar.training.frozen_models import find_text_encoder_folder
    from bitvar.weights.official.convert import convert_to_folder, convert_tokenizer, is_official_tokenizer

    if (transformer / "model_index.json").is_file():
        raise UsageError(
            f"{transformer} is already a model folder.", "it has a model_index.json", "use it, or add --to-official"
        )
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(unknown("dtype", dtype, list(DTYPES)))
    chosen = None if dtype is None else DTYPES[dtype]
    if tokenizer is None and is_official_tokenizer(transformer):
        say(str(convert_tokenizer(transformer, destination, dtype=chosen, log=_log)))
        return
    if tokenizer is None:
        raise UsageError(
            "A transformer is converted together with its tokenizer.",
            "another one with equal bits would load, and give bad images",
            "add --tokenizer, infinity_vae_d32reg.pth for infinity_2b_reg.pth",
        )
    encoder = None
    if text_encoder is not None:
        encoder = find_text_encoder_folder(text_encoder)
    convert_to_folder(
        transformer,
        tokenizer,
        destination,
        name=name,
        text_encoder=encoder,
        budget=budget,
        dtype=chosen,
        instruction_editor=instruction_editor,
        log=_log,
    )
    if text_encoder is None:
        say(
            "The model has no text encoder: convert it again with --text-encoder google/flan-t5-xl to read prompts.",
            err=True,
        )
    say(str(destination))


def _log(line: str) -> None:
    say(line, err=True)
