"""Finding the models that a run builds on: by folder, by name in the package, or on the hub."""

from pathlib import Path

from bitvar.errors import UsageError
from bitvar.training.engine.checkpoint import is_checkpoint
from bitvar.training.options import FrozenModels
from bitvar.weights.digests import digest, merged_digest, read_object
from bitvar.weights.hub import resolve_model
from bitvar.weights.model_folder import find_tokenizer


def find_tokenizer_folder(name: str | Path) -> Path:
    """The folder of a tokenizer, which may lie in that of a model."""
    return find_tokenizer(resolve_model(name, what="tokenizer"))


def find_text_encoder_folder(name: str | Path) -> Path:
    """The folder of a text encoder, which may lie in that of a model."""
    folder = resolve_model(name, what="text encoder")
    return folder / "text_encoder" if (folder / "model_index.json").is_file() else folder


def find_initial(name: str | Path) -> Path:
    """The model folder or checkpoint that a transformer run starts from.

    Raises:
        UsageError: If there is none of that name, or it is a run's folder or a checkpoint of adapters.
    """
    folder = resolve_model(name)
    if is_checkpoint(folder):
        config = read_object(folder / "config.json")
        if config.get("lora") or config.get("control"):
            fix = (
                "give the model that they were trained on; to train them further, use their run's command and --extend"
            )
            raise UsageError(f"{folder} holds adapters.", "a run can't start from adapters alone", fix)
    elif (folder / "checkpoints").is_dir() and not (folder / "model_index.json").is_file():
        fix = f"give its result, such as {folder / 'model'}, or one of its checkpoints"
        raise UsageError(f"{folder} is a run.", "--init needs a model or a checkpoint", fix)
    return folder


def find_frozen(models: FrozenModels, initial: Path | None) -> tuple[Path, Path]:
    """The folders of the tokenizer and the text encoder that a transformer run needs.

    Args:
        models: What the run is given.
        initial: Folder of `models.initial`, if there is one.

    Raises:
        UsageError: If one is neither given nor part of the initial model.
    """
    tokenizer = None if models.tokenizer is None else find_tokenizer_folder(models.tokenizer)
    text_encoder = None if models.text_encoder is None else find_text_encoder_folder(models.text_encoder)
    if initial is not None and not is_checkpoint(initial):
        tokenizer, text_encoder = tokenizer or initial / "image_tokenizer", text_encoder or initial / "text_encoder"
    if tokenizer is None or text_encoder is None:
        raise UsageError(
            "A transformer run needs --tokenizer and --text-encoder, or a model to --init from.",
            "it learns to predict that tokenizer's bits from that encoder's features",
            "train the tokenizer first, and give its OUT/model",
        )
    return tokenizer, text_encoder


def digest_weights(source: Path) -> str:
    """One digest of the weights in a model folder's transformer, a tokenizer folder, or a checkpoint's averages."""
    inside = source / "transformer" if (source / "transformer").is_dir() else source
    paths = sorted(inside.glob("ema*.safetensors")) or sorted(inside.glob("*.safetensors"))
    return merged_digest({path.name: digest(path) for path in paths})
