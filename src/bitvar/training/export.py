"""From a checkpoint of a run to what others load: a model folder, or a tokenizer folder. Averaged weights only."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from bitvar.errors import UsageError, WeightsError
from bitvar.lora.layers import LoraBase, add_adapter
from bitvar.scales import Grid
from bitvar.text import load_text_encoder, published_settings
from bitvar.tokenizer import InfinityTokenizer
from bitvar.training.config import TokenizerTraining, TransformerTraining
from bitvar.training.engine.checkpoint import averaged_tensors, base_sha256, identity_of, latest, load_pretrained
from bitvar.training.engine.identity import RunIdentity, digest_of
from bitvar.training.engine.retention import best_checkpoint, checkpoint_name, list_checkpoints
from bitvar.training.tokenizer.task import TokenizerModels
from bitvar.training.tokenizer.warm_start import TokenizerOrigin, check_origin
from bitvar.training.transformer.feature_cache import digest_tensors, features_key
from bitvar.transformer import InfinityTransformer
from bitvar.weights.digests import verify_folder
from bitvar.weights.identity import TokenizerIdentity, check_bits, identify
from bitvar.weights.index import Defaults, ModelIndex
from bitvar.weights.model_folder import Components, load_component, save_tokenizer_folder, verify_part


def pick_checkpoint(run: Path, step: int | None = None) -> Path:
    """The checkpoint of a step, or the newest whole one.

    Raises:
        UsageError: when the run has none, or none of that step.
        WeightsError: when it is damaged.
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
    assert newest is not None, "there are some, and were none of them whole, it would have said so"
    return newest


def _require_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run; UsageError if it has none."""
    known = list_checkpoints(run / "checkpoints")
    if not known:
        why = "it has saved none yet, or is no run" if run.is_dir() else "there is no such folder"
        raise UsageError(f"{run} has no checkpoint.", why, "give the --out of `bitvar train`")
    return known


def pick_best(run: Path) -> Path:
    """The checkpoint with the best validation figure, verified.

    Raises:
        UsageError: when no checkpoint has one.
        WeightsError: when it is damaged.
    """
    _require_checkpoints(run)
    best = best_checkpoint(run / "checkpoints")
    if best is None:
        why = "no checkpoint was saved at a step that was validated"
        raise UsageError(f"{run} has no best checkpoint.", why, "leave out --best for the newest, or give --step")
    verify_folder(best)
    return best


def read_config(checkpoint: Path) -> TokenizerTraining | TransformerTraining:
    """The configuration that a checkpoint was made with."""
    kind = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")).get("kind")
    return (TokenizerTraining if kind == "tokenizer" else TransformerTraining).load(checkpoint / "config.json")


def assemble(
    checkpoint: Path, config: TransformerTraining, *, tokenizer: Path, text_encoder: Path, index: ModelIndex, card: str
) -> Components:
    """A model of a checkpoint's averaged weights and the two frozen parts that its run was given, all verified.

    Raises:
        WeightsError: if files are missing or altered.
        UsageError: if the parts are not those of the run.
    """
    verify_part(tokenizer)
    verify_part(text_encoder)
    transformer = InfinityTransformer(config.model)
    load_pretrained(transformer, checkpoint)
    parts = (
        load_component(InfinityTokenizer, tokenizer),
        load_text_encoder(text_encoder, settings=published_settings(text_encoder)),
    )
    check_bits(config.model, parts[0].config)
    own = digest_of([parts[0].config.dump(), digest_tensors(parts[0].state_dict())])
    given = {"--tokenizer": own, "--text-encoder": digest_of([features_key("", parts[1], text_encoder).text_encoder])}
    saved = {name: value for name, value in identity_of(checkpoint).items() if name in given}
    changes = RunIdentity({}, given).changes_from(RunIdentity({}, saved))
    if changes:
        why = f"the run had others: {'; '.join(map(str, changes))}"
        todo = "give those of the run's own command"
        raise UsageError("These are not the frozen parts of the run.", why, todo)
    return Components(transformer.eval().requires_grad_(False), *parts, index, card)


def adapted(checkpoint: Path, config: TransformerTraining, folder: Path) -> tuple[InfinityTransformer, LoraBase]:
    """The model of a folder with the averaged adapters that a checkpoint holds for it, and which model that is.

    Raises:
        WeightsError: if they were trained for another model.
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


def model_index(name: str, tokenizer: Path, defaults: Defaults | None = None) -> ModelIndex:
    """The index of a model that was trained with the tokenizer in a folder."""
    identity = TokenizerIdentity.load(tokenizer / "identity.json")
    return ModelIndex(name=name, tokenizer=identity, defaults=defaults or Defaults())


def load_tokenizer(
    checkpoint: Path, config: TokenizerTraining, origin: TokenizerOrigin | None = None
) -> InfinityTokenizer:
    """The averaged tokenizer of a checkpoint.

    Args:
        checkpoint: of a tokenizer run.
        config: of that run.
        origin: what the run began from; needed when it trained one half only.

    Raises:
        UsageError: as `check_origin`.
        WeightsError: if the half that was trained belongs to another tokenizer.
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
    """Write a tokenizer folder in half precision, whole or not at all, with the identity that models know it by.

    Args:
        tokenizer: to save.
        folder: to write.
        name: what its identity is called after.
        encoder_of: the tokenizer whose encoder it has: that half is written as it is stored there, to the bit.
        grids: cells of each scale, one list a size that it was trained on.
    """
    tensors = {key: value.half().cpu() for key, value in tokenizer.state_dict().items()}
    if encoder_of is not None:
        tensors |= {key: value for key, value in encoder_of.tensors.items() if key.startswith("encoder.")}
    identity = identify(f"{name}-tokenizer", tensors, tokenizer.config.code_norms)
    if encoder_of is not None and encoder_of.identity is not None:
        identity = identity.model_copy(update={"encoder_of": encoder_of.identity.bits_sha256})
    save_tokenizer_folder(tensors, tokenizer.config, folder, identity=identity, grids=grids)
