"""Turning a run's checkpoint into what others load: a model folder, a tokenizer folder or an adapter.

Only the averaged weights of a checkpoint are exported.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bitvar import arguments
from bitvar.config import unknown
from bitvar.control.file import save_control
from bitvar.errors import UsageError, WeightsError
from bitvar.lora.layers import LoraBase, add_adapter, save_adapter
from bitvar.runtime.placement import DTYPES
from bitvar.sampling.params import SamplingParams
from bitvar.scales import Grid
from bitvar.text import load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.engine.checkpoint import (
    averaged_tensors,
    base_sha256,
    identity_of,
    latest,
    load_pretrained,
    step_of,
)
from bitvar.training.engine.identity import RunIdentity, digest_of
from bitvar.training.engine.retention import best_checkpoint, checkpoint_name, list_checkpoints
from bitvar.training.frozen_models import find_text_encoder_folder, find_tokenizer_folder
from bitvar.training.model_names import choose_name
from bitvar.training.tokenizer.task import TokenizerModels
from bitvar.training.tokenizer.warm_start import TokenizerOrigin, check_origin
from bitvar.training.transformer.control import load_trained_control
from bitvar.training.transformer.feature_cache import digest_tensors, features_key
from bitvar.transformer import InfinityTransformer
from bitvar.weights.digests import verify_folder
from bitvar.weights.hub import resolve_model
from bitvar.weights.identity import TokenizerIdentity, check_bits, identify
from bitvar.weights.index import ModelIndex
from bitvar.weights.model_folder import Components, load_component, save_folder, save_tokenizer_folder, verify_part


def export_run(
    run: str | Path,
    destination: str | Path,
    *,
    step: int | None = None,
    best: bool = False,
    tokenizer: str | Path | None = None,
    text_encoder: str | Path | None = None,
    init: str | Path | None = None,
    name: str | None = None,
    dtype: str | None = None,
) -> Path:
    """Export a checkpoint of a run to a folder that others load, as `bitvar export` does.

    A transformer becomes a model folder, a tokenizer a tokenizer folder, and adapters an adapter folder.

    Args:
        run: Folder of the run, finished or not.
        destination: Folder to write, which must not exist.
        step: Step of the checkpoint; the newest if None.
        best: Take the checkpoint with the best validation metric.
        tokenizer: Tokenizer that a transformer's run was given; that of `init` if None.
        text_encoder: Text encoder that a transformer's run was given; that of `init` if None.
        init: Model or tokenizer that the run started from.
        name: Name of the model; the name of the folder `run` if None.
        dtype: Precision of a transformer's weights in the file: "fp32", "bf16" or "fp16"; "fp32" if None.

    Returns:
        The folder `destination`.

    Raises:
        UsageError: If there is no such checkpoint, or a model that it needs is missing or another one.
        WeightsError: If files are missing or altered.
    """
    run = Path(arguments.checked("run", run, arguments.path))
    destination = Path(arguments.checked("destination", destination, arguments.path))
    name = choose_name(run, name)
    if destination.exists():
        raise UsageError(f"{destination} exists.", "nothing is overwritten", "choose another folder")
    if best and step is not None:
        raise UsageError("Which checkpoint?", "--best and --step both name one", "give one of them")
    checkpoint = pick_best(run) if best else pick_checkpoint(run, step)
    config = read_config(checkpoint)
    if dtype is not None and (isinstance(config, TokenizerTraining) or config.lora or config.control):
        why = "a tokenizer and a control adapter are always stored in fp16, a LoRA in fp32"
        raise UsageError("--dtype is for a transformer's weights.", why, "leave it out")
    if (dtype or "fp32") not in DTYPES:
        raise UsageError(unknown(f"dtype {dtype!r}", str(dtype), list(DTYPES)))
    if isinstance(config, TokenizerTraining):
        _export_tokenizer(checkpoint, config, destination, name=name, init=init)
    elif config.control is not None:
        adapter, base = load_trained_control(checkpoint, config, _require_base(init))
        save_control(adapter, destination, base=base)
    elif config.lora is not None:
        model, base = load_adapted(checkpoint, config, _require_base(init))
        save_adapter(model, destination, settings=config.lora, base=base)
    else:
        components = _load_named(
            checkpoint, config, tokenizer=tokenizer or init, text_encoder=text_encoder or init, name=name
        )
        components.transformer.to(DTYPES[dtype or "fp32"])
        save_folder(components, destination)
    return destination


def _require_base(init: str | Path | None) -> Path:
    """Find the model that adapters were trained for, which their checkpoints don't hold."""
    if init is None:
        fix = "add --init as in the run's own command"
        raise UsageError("Adapters belong to a model.", "the checkpoint holds none", fix)
    return resolve_model(init)


def _export_tokenizer(
    checkpoint: Path, config: TokenizerTraining, destination: Path, *, name: str, init: str | Path | None
) -> None:
    origin = None
    if init is not None and config.trained != "all":
        origin = TokenizerOrigin.read(resolve_model(init, what="tokenizer"))
    tokenizer = load_tokenizer(checkpoint, config, origin)
    encoder_of = origin if config.trained == "decoder" else None
    save_tokenizer(tokenizer, destination, name=name, encoder_of=encoder_of, grids=config.schedules)


def _load_named(
    checkpoint: Path,
    config: TransformerTraining,
    *,
    tokenizer: str | Path | None,
    text_encoder: str | Path | None,
    name: str,
) -> Components:
    """The model of a checkpoint, with the frozen components found by their names."""
    if tokenizer is None or text_encoder is None:
        why = "a checkpoint holds the transformer only, not the tokenizer and the text encoder"
        fix = "add --init, or --tokenizer and --text-encoder, as in the run's own command"
        raise UsageError("A model needs its frozen parts.", why, fix)
    tokenizer_folder, encoder_folder = find_tokenizer_folder(tokenizer), find_text_encoder_folder(text_encoder)
    verify_part(tokenizer_folder)
    return load_components(
        checkpoint,
        config,
        tokenizer=tokenizer_folder,
        text_encoder=encoder_folder,
        index=model_index(name, tokenizer_folder),
        card=f"# {name}\n\nStep {step_of(checkpoint):,} of a run.\n",
    )


def result_folder(config: TokenizerTraining | TransformerTraining, out: Path) -> Path:
    """Where a finished run in `out` writes its result."""
    if config.kind == "transformer" and config.control is not None:
        return out / "control"
    return out / ("lora" if config.kind == "transformer" and config.lora is not None else "model")


@contextlib.contextmanager
def warn_of_failed_save(log: Callable[[str], None]) -> Iterator[None]:
    """If the result of a finished run can't be written, say that nothing is lost."""
    try:
        yield
    except OSError:
        log("WARNING: the run is finished and its last checkpoint saved, but its result could not be written;"
            " the same command writes it")  # fmt: skip
        raise


def pick_checkpoint(run: Path, step: int | None = None) -> Path:
    """The checkpoint of a step, or the newest sound one.

    Raises:
        UsageError: If the run has none, or none of that step.
        WeightsError: If it is damaged.
    """
    folder = run / "checkpoints"
    known = _require_checkpoints(run)
    if step is not None:
        chosen = folder / checkpoint_name(step)
        if chosen not in known:
            steps = ", ".join(str(int(path.name.partition("-")[2])) for path in known)
            raise UsageError(f"{run} has no checkpoint of step {step}.", f"it has: {steps}", "choose one")
        verify_folder(chosen)
        return chosen
    newest = latest(folder)
    assert newest is not None, "`latest` raises if there are checkpoints and all are damaged"
    return newest


def _require_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, or raise UsageError if it has none."""
    known = list_checkpoints(run / "checkpoints")
    if not known:
        why = "it has saved none yet, or is not a run" if run.is_dir() else "there is no such folder"
        raise UsageError(f"{run} has no checkpoint.", why, "give the --out of `bitvar train`")
    return known


def pick_best(run: Path) -> Path:
    """The checkpoint with the best validation metric, verified.

    Raises:
        UsageError: If no checkpoint has one.
        WeightsError: If it is damaged.
    """
    _require_checkpoints(run)
    best = best_checkpoint(run / "checkpoints")
    if best is None:
        why = "no checkpoint was saved at a step that was validated"
        raise UsageError(f"{run} has no best checkpoint.", why, "leave out --best for the newest, or give --step")
    verify_folder(best)
    return best


def read_config(checkpoint: Path) -> TokenizerTraining | TransformerTraining:
    """The configuration that a checkpoint was saved with."""
    kind = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")).get("kind")
    return (TokenizerTraining if kind == "tokenizer" else TransformerTraining).load(checkpoint / "config.json")


def load_components(
    checkpoint: Path, config: TransformerTraining, *, tokenizer: Path, text_encoder: Path, index: ModelIndex, card: str
) -> Components:
    """A model of a checkpoint's averaged weights and the tokenizer and text encoder of its run, all verified.

    Args:
        checkpoint: Checkpoint of a transformer run.
        config: Configuration of that run.
        tokenizer: Folder of the tokenizer that the run was given.
        text_encoder: Folder of the text encoder that the run was given.
        index: Index of the model.
        card: Text of its README.

    Raises:
        WeightsError: If files are missing or altered.
        UsageError: If tokenizer or text encoder is another one than the run's.
    """
    verify_part(tokenizer)
    verify_part(text_encoder)
    transformer = InfinityTransformer(config.model)
    load_pretrained(transformer, checkpoint)
    decoder = load_component(InfinityTokenizer, tokenizer)
    encoder = load_text_encoder(text_encoder, settings=published_settings(text_encoder))
    check_bits(config.model, decoder.config)
    given = {
        "--tokenizer": digest_of([decoder.config.dump(), digest_tensors(decoder.state_dict())]),
        "--text-encoder": digest_of([features_key("", encoder, text_encoder).text_encoder]),
    }
    saved = {name: value for name, value in identity_of(checkpoint).items() if name in given}
    changes = RunIdentity({}, given).changes_from(RunIdentity({}, saved))
    if changes:
        why = f"the run had others: {'; '.join(map(str, changes))}"
        raise UsageError("These are not the frozen parts of the run.", why, "give those of the run's own command")
    return Components(transformer.eval().requires_grad_(False), decoder, encoder, index, card)


def load_adapted(checkpoint: Path, config: TransformerTraining, folder: Path) -> tuple[InfinityTransformer, LoraBase]:
    """A folder's model with the averaged adapters of a checkpoint, and the identity of that model.

    Raises:
        WeightsError: If the adapters were trained for another model.
    """
    assert config.lora is not None
    model = InfinityTransformer(config.model)
    base = LoraBase.of_folder(folder, load_pretrained(model, folder))
    if base.transformer != base_sha256(checkpoint):
        why = "its adapters were trained for other weights"
        raise WeightsError(f"{checkpoint} does not belong to {folder}.", why, "give the --init of its run")
    add_adapter(model, config.lora, generator=torch.Generator())
    model.load_state_dict(model.state_dict() | averaged_tensors(checkpoint))
    return model, base


def model_index(name: str, tokenizer: Path, defaults: SamplingParams | None = None) -> ModelIndex:
    """The index of a model that was trained with the tokenizer in a folder."""
    identity = TokenizerIdentity.load(tokenizer / "identity.json")
    return ModelIndex(name=name, tokenizer=identity, defaults=defaults or SamplingParams())


def load_tokenizer(
    checkpoint: Path, config: TokenizerTraining, origin: TokenizerOrigin | None = None
) -> InfinityTokenizer:
    """The averaged tokenizer of a checkpoint.

    Args:
        checkpoint: Checkpoint of a tokenizer run.
        config: Configuration of that run.
        origin: Tokenizer that the run started from; needed if it trained one half only.

    Raises:
        UsageError: If `check_origin` refuses the origin.
        WeightsError: If the half that was trained belongs to another tokenizer.
    """
    models = TokenizerModels(config)
    check_origin(config, origin)
    if config.trained != "all" and origin is not None and origin.identity is not None:
        if origin.identity.sha256 != base_sha256(checkpoint):
            why = f"its {config.trained} was trained for another tokenizer"
            raise WeightsError(f"{checkpoint} does not belong to it.", why, "give the --init of its run")
        origin.load_into(models.tokenizer)
    verify_folder(checkpoint)
    models.load_state_dict(models.state_dict() | averaged_tensors(checkpoint))
    return models.tokenizer


def save_tokenizer(
    tokenizer: InfinityTokenizer,
    folder: Path,
    *,
    name: str,
    encoder_of: TokenizerOrigin | None = None,
    grids: Sequence[Sequence[Grid]] = (),
) -> None:
    """Write a tokenizer folder in fp16, atomically, with the identity that models know it by.

    Args:
        tokenizer: Tokenizer to save.
        folder: Folder to write.
        name: Name of the run, from which the identity takes its own.
        encoder_of: Tokenizer whose encoder it has; that half is copied bit for bit.
        grids: Cells of each scale, one list for each size that it was trained on.
    """
    tensors = {key: value.half().cpu() for key, value in tokenizer.state_dict().items()}
    if encoder_of is not None:
        tensors |= {key: value for key, value in encoder_of.tensors.items() if key.startswith("encoder.")}
    identity = identify(f"{name}-tokenizer", tensors, tokenizer.config.code_norms)
    if encoder_of is not None and encoder_of.identity is not None:
        identity = identity.model_copy(update={"encoder_of": encoder_of.identity.bits_sha256})
    save_tokenizer_folder(tensors, tokenizer.config, folder, identity=identity, grids=grids)
