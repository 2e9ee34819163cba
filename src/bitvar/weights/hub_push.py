"""Publishing a model or a tokenizer on the hub, with a card: one commit with exactly the files that the manifest lists.

A repository that holds anything else is refused, so that a push never replaces or removes what bitvar didn't put there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bitvar.errors import UsageError, explain
from bitvar.weights.describe import Description, describe
from bitvar.weights.digests import MANIFEST, is_note, read_card, verify_folder
from bitvar.weights.hub import explain_hub_error, is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CARD: Final = "README.md"
_FRONT: Final = re.compile(r"\A---\n(.*?)\n---\n", flags=re.DOTALL)
_LICENCE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


@dataclass(frozen=True)
class Pushed:
    """A commit on the hub.

    Attributes:
        name: Hub id.
        commit: Commit, 40 hexadecimal digits. The model is pinned by it as `revision`.
        url: Address of the repository.
        private: Whether only its owner sees the repository.
        files: Names of the files of the model, sorted.
    """

    name: str
    commit: str
    url: str
    private: bool
    files: tuple[str, ...]


def push_folder(
    folder: Path,
    name: str,
    *,
    private: bool = True,
    licence: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Verify a folder of a model or a tokenizer and push it to the hub as one commit. The folder is not changed.

    Files that the hub has are not uploaded again, so a push that was interrupted continues when it is repeated.

    Args:
        folder: Folder as bitvar saves it.
        name: Hub id of the repository, which is created if it is missing.
        private: Whether a new repository is private. An existing one stays as it is.
        licence: Licence for the card, as the hub abbreviates it, such as "apache-2.0"; None for the one that the card
            names.
        revision: Branch to push to; None for main.
        message: Message of the commit.

    Raises:
        UsageError: for a name that is no hub id, or a repository that holds other files.
        WeightsError: for a folder that is neither a model nor a tokenizer, or altered files.
        RuntimeError: if the hub refuses or can't be reached; nothing has been published then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not is_hub_id(name):
        raise UsageError(f"{name!r} is no hub id.", "a hub id is OWNER/NAME", "check the name")
    description = describe(folder)
    files = _files_to_push(folder)
    card = hub_card(description, read_card(folder), name=name, licence=licence)
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        present = _present(api, name, revision)
        stale = _stale(api, name, revision, present, files)
        added: list[Any] = [CommitOperationAdd(file, folder / file) for file in files if file != _CARD]
        added.append(CommitOperationAdd(_CARD, card.encode()))
        made = api.create_commit(
            name,
            [*added, *(CommitOperationDelete(file) for file in stale)],
            commit_message=message or f"Publish {description.name}",
            revision=revision,
        )
        is_private = bool(api.model_info(name, revision=revision).private)
    except UsageError:
        raise
    except Exception as error:  # network libraries raise errors of many classes
        raise RuntimeError(explain(f"Can't push to {name}.", *_explain_refusal(error))) from None
    return Pushed(name, str(made.oid), str(address), is_private, tuple(files))


def hub_card(description: Description, card: str, *, name: str, licence: str | None = None) -> str:
    """Complete the card of a model for the hub: its front matter, and how to use it, unless the card says so.

    Args:
        description: The model.
        card: Text of its own card; empty without one.
        name: Hub id.
        licence: Licence to name, as the hub abbreviates it; None for the one that the card names.

    Raises:
        UsageError: for a licence that can't be an abbreviation.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        why = "the hub abbreviates licences, in lower case"
        raise UsageError(f"{licence!r} is no licence.", why, "give one such as apache-2.0, mit or other")
    front, body = _split(card)
    wanted = {
        "license": licence,
        "library_name": None if "library_name" in front else "bitvar",
        "pipeline_tag": "text-to-image" if description.kind == "model" and "pipeline_tag" not in front else None,
        "tags": "[bitvar, infinity]" if "tags" not in front else None,
    }
    lines = [line for line in front.get("", []) if not (licence and line.startswith("license:"))]
    lines += [f"{key}: {value}" for key, value in wanted.items() if value is not None]
    text = body.strip() or f"# {description.name}"
    use = "" if name in text else f"\n\n## Use\n\n{_use(description, name)}"
    return "---\n" + "\n".join(lines) + "\n---\n\n" + text + use + "\n"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its front matter, its lines under "" and its keys, and its body."""
    match = _FRONT.match(card)
    if match is None:
        return {"": []}, card
    lines = match[1].splitlines()
    return {"": lines, **{line.split(":")[0]: True for line in lines if re.match(r"\w+:", line)}}, card[match.end() :]


def _use(description: Description, name: str) -> str:
    if description.kind == "model":
        return (
            f'```bash\npip install bitvar\nbitvar generate "a lighthouse at dawn" --model {name}\n```\n\n'
            f'```python\nfrom bitvar import InfinityPipeline\n\npipe = InfinityPipeline.from_pretrained("{name}")\n'
            f'pipe("a lighthouse at dawn", seed=0).save("lighthouse.png")\n```'
        )
    return f"```bash\npip install bitvar\nbitvar tokenizer encode image.png -o image.bits --tokenizer {name}\n```"


def _files_to_push(folder: Path) -> list[str]:
    """Verify a folder, and list its files: those of the manifest, the manifest itself, and notes."""
    listed = verify_folder(folder)
    notes = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    visible = [name for name in notes if is_note(name) and not any(part.startswith(".") for part in Path(name).parts)]
    present = {name for name in (*listed, MANIFEST, *visible) if (folder / name).is_file()}
    return sorted(present | {_CARD})


def _present(api: "HfApi", name: str, revision: str | None) -> list[str]:
    """List the files of a revision of a repository; none for a branch that doesn't exist yet."""
    from huggingface_hub import errors

    try:
        return [file.rfilename for file in api.model_info(name, revision=revision).siblings or ()]
    except errors.RevisionNotFoundError:
        api.create_branch(name, branch=str(revision))
        return [file.rfilename for file in api.model_info(name, revision=revision).siblings or ()]


def _stale(api: "HfApi", name: str, revision: str | None, present: Sequence[str], files: Sequence[str]) -> list[str]:
    """List the files of an earlier push that the new one lacks.

    Raises:
        UsageError: if the repository holds files that no push of bitvar put there.
    """
    from bitvar.weights.hub_cache import read_listed

    others = [file for file in present if file not in files and not is_note(file) and not file.startswith(".")]
    if not others:
        return []
    listed = read_listed(Path(api.hf_hub_download(name, MANIFEST, revision=revision))) if MANIFEST in present else {}
    foreign = [file for file in others if file not in listed]
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        why = f"{shown}; a model with other files beside it would be refused when it is loaded"
        raise UsageError(f"{name} holds files that bitvar did not put there.", why, "name a repository of its own")
    return others


def _explain_refusal(error: Exception) -> tuple[str, str]:
    """Explain why the hub took nothing, and what to do."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return "you are not logged in on this machine, or the token is not valid", "log in: `hf auth login`"
    if status == 403:
        return "your token may not write there", "log in with one that may: `hf auth login`"
    cause = error.__cause__ or error
    why = explain_hub_error(cause if isinstance(cause, Exception) else error)
    return why.replace(", and it is not in the cache", ""), "repeat the command: what was uploaded is not sent again"
