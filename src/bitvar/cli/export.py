"""`bitvar export RUN DEST`."""

from pathlib import Path
from typing import Annotated

import typer

from bitvar.cli.exit_codes import exit_codes


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out of `bitvar train`, finished or not.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write.")],
    step: Annotated[int | None, typer.Option(min=0, help="Of the checkpoint. Default: the newest.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The checkpoint of the best validation.")] = False,
    tokenizer: Annotated[str | None, typer.Option(help="As given to `bitvar train`; transformer runs.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="As given to `bitvar train`; transformer runs.")] = None,
    initial: Annotated[
        str | None,
        typer.Option("--init", help="As given to `bitvar train`; names a model's frozen parts, or what a run adapts."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: that of the folder RUN.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16, of a transformer's weights in the file. Default: fp32.")
    ] = None,
) -> None:
    """Turn a checkpoint's averaged weights into a model folder, or a tokenizer run's into a tokenizer folder."""
    with exit_codes():
        from bitvar.cli.names import name_for, printable
        from bitvar.config import unknown
        from bitvar.errors import UsageError
        from bitvar.lora.layers import save_adapter
        from bitvar.runtime.placement import DTYPES
        from bitvar.training.config import TokenizerTraining
        from bitvar.training.engine.checkpoint import step_of
        from bitvar.training.export import (
            adapted,
            assemble,
            load_tokenizer,
            model_index,
            pick_best,
            pick_checkpoint,
            read_config,
            save_tokenizer,
        )
        from bitvar.training.run_inputs import find_text_encoder
        from bitvar.training.tokenizer.warm_start import TokenizerOrigin
        from bitvar.weights.hub import resolve_model
        from bitvar.weights.model_folder import find_tokenizer, save_folder, verify_part

        name = name_for(run, name)
        if destination.exists():
            raise UsageError(f"{destination} exists.", "nothing is overwritten", "choose another folder")
        if best and step is not None:
            raise UsageError("Which checkpoint?", "--best and --step both name one", "give one of them")
        checkpoint = pick_best(run) if best else pick_checkpoint(run, step)
        config = read_config(checkpoint)
        if dtype is not None and (isinstance(config, TokenizerTraining) or config.lora is not None):
            why = "a tokenizer's are fp16, and an adapter's fp32, always"
            raise UsageError("--dtype is for a transformer's weights.", why, "leave it out")
        stored = DTYPES.get(dtype or "fp32")
        if stored is None:
            raise UsageError(unknown(f"dtype {dtype!r}", str(dtype), list(DTYPES)))
        if isinstance(config, TokenizerTraining):
            origin = None
            if initial is not None and config.trained != "all":
                origin = TokenizerOrigin.read(resolve_model(initial, what="tokenizer"))
            tokenizer_made = load_tokenizer(checkpoint, config, origin)
            encoder_of = origin if config.trained == "decoder" else None
            save_tokenizer(tokenizer_made, destination, name=name, encoder_of=encoder_of, grids=config.schedules)
        elif config.lora is not None:
            if initial is None:
                todo = "add --init as in the run's own command"
                raise UsageError("Adapters belong to a model.", "the checkpoint holds none", todo)
            model, base = adapted(checkpoint, config, resolve_model(initial))
            save_adapter(model, destination, settings=config.lora, base=base)
        elif (own_name := tokenizer or initial) is None or (encoder_name := text_encoder or initial) is None:
            why = "a checkpoint holds the transformer only, not the tokenizer and the text encoder"
            todo = "add --init, or --tokenizer and --text-encoder, as in the run's own command"
            raise UsageError("A model needs its frozen parts.", why, todo)
        else:
            own = find_tokenizer(resolve_model(own_name, what="tokenizer"))
            encoder = find_text_encoder(resolve_model(encoder_name, what="text encoder"))
            verify_part(own)
            index, card = model_index(name, own), f"# {name}\n\nStep {step_of(checkpoint):,} of a run.\n"
            parts = assemble(checkpoint, config, tokenizer=own, text_encoder=encoder, index=index, card=card)
            parts.transformer.to(stored)
            save_folder(parts, destination)
        typer.echo(printable(destination))
