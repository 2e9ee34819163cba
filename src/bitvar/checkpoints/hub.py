"""Finding a model or a tokenizer: one in the package, one on disk, or one on the hub."""

from pathlib import Path
from typing import Final

from bitvar.errors import UsageError, WeightsError, explain

_MODELS: Final = Path(__file__).parent.parent / "models"

EMBEDDED_MODEL: Final = _MODELS / "icons"
EMBEDDED_TOKENIZER: Final = _MODELS / "pictures"
"""A tokenizer alone, for icons and photographs; the embedded model has its own copy."""
FINE_TOKENIZER: Final = _MODELS / "fine"
"""Four times its bits, for pictures given back as they were."""
TOKENIZERS: Final = (EMBEDDED_TOKENIZER, FINE_TOKENIZER)


def resolve_named(name: str | Path, revision: str | None = None, *, what: str = "model") -> Path:
    """`resolve_model` of what a command is given, where the names of those in the package stand for these."""
    embedded = {folder.name: folder for folder in (EMBEDDED_MODEL, *TOKENIZERS)}
    return embedded.get(str(name)) or resolve_model(name, revision, what=what)


def resolve_model(model: str | Path | None, revision: str | None = None, *, what: str = "model") -> Path:
    """The folder of a model: the embedded one, one on disk, or one from the hub (through its cache).

    Args:
        model: None for the embedded one, a folder, or a hub id `owner/name`.
        revision: of a hub id.
        what: names it in errors.

    Raises:
        UsageError: if there is none of that name.
        WeightsError: if the hub does not give it.
    """
    if model is None:
        return EMBEDDED_MODEL
    folder = Path(model)
    if folder.is_dir():
        return folder
    name = str(model)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            explain(
                f"There is no {what} {name!r}.", "it is neither a folder here nor a hub id owner/name", "check the path"
            )
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.md", "*.txt"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            explain(
                f"Can't get the {what} {name!r} from the hub.", reason, "check the name, the revision and the network"
            )
        ) from None
