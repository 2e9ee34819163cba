"""The only resolver of names of models and tokenizers: in the package, on disk, or on the hub."""

import difflib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError, WeightsError

_MODELS: Final = Path(__file__).parent.parent / "pretrained"

EMBEDDED_MODEL: Final = _MODELS / "icons"
EMBEDDED_TOKENIZER: Final = _MODELS / "general"
"""A tokenizer for icons and photographs, without a model. The embedded model has a tokenizer of its own."""
FINE_TOKENIZER: Final = _MODELS / "fine"
"""A tokenizer with four times as many bits, for close reconstructions."""
TOKENIZERS: Final = (EMBEDDED_TOKENIZER, FINE_TOKENIZER)
EMBEDDED_CONTROL: Final = _MODELS / "lines"
"""A control adapter for the embedded model, which follows the lines of a drawing."""
EMBEDDED_EDITOR: Final = _MODELS / "icons_editor"
"""An adapter that makes the embedded model an instruction editor."""

DOWNLOADED: Final = ("*.json", "*.safetensors", "*.md", "*.txt")
"""Files of a repository that are downloaded: weights, configurations, vocabularies and cards, but no code."""

_INDEX: Final = "model_index.json"
_CHECKPOINTS: Final = (".pth", ".pt", ".bin", ".safetensors")


def resolve_model(model: str | Path | None, revision: str | None = None, *, what: str = "model") -> Path:
    """Resolve a name to a folder: the embedded model, a folder on disk, or a snapshot from the hub's cache.

    A folder on disk takes precedence over a name in the package, and a name in the package over a hub id.

    Args:
        model: Folder, name in the package, or hub id `owner/name`; None for the embedded model.
        revision: Revision of a hub id. It is refused with any other name, since it would have no effect.
        what: Kind of the result, also for errors: "model", "tokenizer", "text encoder", "adapter", "control adapter" or
            "instruction editor".

    Raises:
        UsageError: for a name that resolves to nothing.
        WeightsError: if the download from the hub fails.

    Warns:
        UserWarning: if a folder on disk hides a name in the package.
    """
    if not isinstance(model, str | Path | None):
        why = f"a {type(model).__name__} is neither a name nor a path"
        raise UsageError(f"There is no {what} {model!r}.", why, "give a folder, a name or a hub id owner/name")
    folder = _resolve_local(model, what)
    if folder is None:
        return _from_hub(str(model), revision, what)
    refuse_revision(revision, folder, what)
    return folder


def refuse_revision(revision: str | None, path: Path, what: str) -> None:
    """Refuse a revision of a local file or folder, which has none.

    Raises:
        UsageError: for a revision other than None.
    """
    if revision is not None:
        why = f"only {_a(what)} of the hub has revisions, and this is {path}"
        raise UsageError(f"The revision {revision!r} would do nothing.", why, "name OWNER/NAME, or leave it out")


def _resolve_local(model: str | Path | None, what: str) -> Path | None:
    """Resolve a name to a local folder; None for a hub id."""
    if model is None:
        return EMBEDDED_MODEL
    name, packaged = str(model), _packaged(what)
    folder = _existing(name, what)
    if folder is not None:
        if folder.is_file():
            raise UsageError(f"{name} is a file, not the folder of {_a(what)}.", *_hint_at_file(folder, what))
        if name in packaged and folder.resolve() != packaged[name].resolve():
            text = f"The folder {folder.absolute()} is used, not the {what} {name!r} in the package."
            warnings.warn(text, UserWarning, stacklevel=2)
        return folder
    if name in packaged:
        return packaged[name]
    if not is_hub_id(name):
        raise UsageError(
            f"There is no {what} {name!r}.",
            "there is no such folder, and no such name in the package; hub ids are owner/name",
            _suggestion(name, packaged),
        )
    return None


def require_model_folder(folder: Path) -> None:
    """Refuse a folder that contains no model.

    Raises:
        WeightsError: saying what the folder is, and what to give instead.
    """
    if not (folder / _INDEX).is_file():
        raise WeightsError(f"{folder} is no model folder.", *_hint_at_folder(folder))


def _a(what: str) -> str:
    return f"an {what}" if what.startswith("a") else f"a {what}"


def _packaged(what: str) -> Mapping[str, Path]:
    """Map names to the folders in the package that contain a `what`. The only text encoder is the embedded model's."""
    kinds = {
        "adapter": (),
        "control adapter": (EMBEDDED_CONTROL,),
        "instruction editor": (EMBEDDED_EDITOR,),
        "text encoder": (EMBEDDED_MODEL,),
    }
    folders = kinds.get(what, (EMBEDDED_MODEL, *TOKENIZERS))
    return {folder.name: folder for folder in folders}


def _existing(name: str, what: str) -> Path | None:
    """Return the path of a name if it exists. `~` is the user's home folder."""
    if not name:
        raise UsageError(f"There is no {what} ''.", "the name is empty", "name one, or leave the option out")
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError) as error:  # a long name, a NUL, an unknown user
        reason = getattr(error, "strerror", None) or str(error)
        shown = f"{name[:60]!r}{'...' if len(name) > 60 else ''}"
        raise UsageError(f"There is no {what} {shown}.", reason, "check the path") from None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, `owner/name`."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _suggestion(name: str, packaged: Mapping[str, Path]) -> str:
    near = difflib.get_close_matches(name.lower(), packaged, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"check the path, or choose from {', '.join(packaged)}" if packaged else "check the path"


def _from_hub(name: str, revision: str | None, what: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
    except Exception as error:  # network libraries raise errors of many classes
        raise WeightsError(
            f"There is no folder {name!r}, and the hub gave no {what} of that name.",
            explain_hub_error(error),
            "check the path; if you meant the hub, check the name, the revision and the network",
        ) from None


def explain_hub_error(error: Exception) -> str:
    """Explain in one line why the hub refused, or could not be asked, from an error and its causes."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(part, errors.RevisionNotFoundError) for part in chain):
        return "the hub has no such revision of it"
    if any(isinstance(part, errors.GatedRepoError) for part in chain):
        return "its owner asks for a log-in and consent: `hf auth login`"
    if any(isinstance(part, errors.RepositoryNotFoundError) for part in chain):
        return "the hub has none of that name, or only for those who are logged in"
    if any(isinstance(part, errors.OfflineModeIsEnabled) for part in chain):
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    networks = {"ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout", "ProxyError", "NetworkError"}
    if any(type(part).__name__ in networks for part in chain) or isinstance(error, errors.LocalEntryNotFoundError):
        return "the network can't be reached, and it is not in the cache"
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _hint_at_file(path: Path, what: str) -> tuple[str, str]:
    if path.name in (_INDEX, "model.safetensors", "config.json"):
        return "it is a file of such a folder, perhaps", f"give the folder: {path.parent}"
    if path.suffix == ".safetensors" and what == "model":
        return (
            "it holds weights alone",
            "an adapter goes with --lora; official weights become a folder by `bitvar convert`",
        )
    if path.suffix in _CHECKPOINTS:
        return "it is a checkpoint, perhaps an official one", "make a folder of it with `bitvar convert`"
    return "a folder holds the weights and what they are", "give the folder"


def _hint_at_folder(folder: Path) -> tuple[str, str]:
    """Explain why a folder without an index is no model, and what to give instead."""
    exported, parent = folder / "model", folder.resolve().parent
    inside = sorted(path.parent for path in folder.glob(f"*/{_INDEX}"))
    is_run, of_package = (folder / "checkpoints").is_dir(), folder.name in _packaged("model")
    is_tokenizer = (folder / "identity.json").is_file() and (folder / "config.json").is_file()
    is_adapter = (folder / "adapter_config.json").is_file() or any(folder.glob("*lora*.safetensors"))
    is_official = any(any(folder.glob(f"*{suffix}")) for suffix in (".index.json", *_CHECKPOINTS))
    convert = "official files are turned into a model folder by `bitvar convert`"
    outside = f"for the model in the package leave the option out, or start elsewhere: ./{folder.name} counts first"
    cases = (
        (
            is_run and (exported / _INDEX).is_file(),
            ": it is the folder of a run",
            f"give the model it made: {exported}",
        ),
        (is_run, ": it is the folder of a run", f"make a model of its checkpoint: bitvar export {folder} NEW_FOLDER"),
        ((folder / "state.json").is_file(), ": it is a checkpoint of a run", "make a model of it by `bitvar export`"),
        (is_tokenizer, ": it is a tokenizer", "give it with --tokenizer, beside a model"),
        (is_adapter, ": it is an adapter", "give it with --lora, beside a model"),
        ((parent / _INDEX).is_file(), ": it is a part of a model", f"give the whole: {parent}"),
        (bool(inside), "", f"give the model inside: {inside[0] if inside else ''}"),
        (is_official, "", convert),
        (of_package, "", outside),
        (True, "", f"give a folder made by bitvar; {convert}"),
    )
    ending, fix = next((ending, fix) for applies, ending, fix in cases if applies)
    return f"it has no {_INDEX}{ending}", fix
