"""`bitvar models pull`, `verify`, `rm` and `push`: the files of models, on this machine and on the hub."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitvar.cli.echo import say, show_path
from bitvar.cli.exit_codes import CANCELLED, WEIGHTS, exit_codes

if TYPE_CHECKING:
    from bitvar.weights.hub_cache import CachedModel

_AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Hub id of a model or a tokenizer.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: the main branch.")] = None,
    as_json: _AsJson = False,
) -> None:
    """Download a model from the hub and verify every digest. Repeat it to continue an interrupted download."""
    with exit_codes():
        from bitvar.weights.hub_cache import default_cache, folder_size, plan_download
        from bitvar.weights.hub_cache import pull as pull_model

        download = plan_download(name, revision)
        say(f"{name} at {download.commit}: {len(download.files)} files, {show_size(download.size)}", err=True)
        folder = pull_model(download, default_cache(), log=lambda line: say(line, err=True))
        if as_json:
            facts = {"name": name, "commit": download.commit, "folder": str(folder), "size": folder_size(folder)}
            say(json.dumps(facts))
            return
        say(show_path(folder))
        say(f"Verified. To use exactly this one: --model {name} --revision {download.commit}", err=True)


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Names in `bitvar models list`, folders, or hub ids that were pulled. Default: the embedded model.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all that `bitvar models list` lists.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Verify every digest of models and tokenizers. Nothing is downloaded. The exit code is 3 if one is damaged."""
    with exit_codes():
        from bitvar.errors import UsageError
        from bitvar.weights.hub_cache import default_cache
        from bitvar.weights.local_models import find_models

        if names and everything:
            raise UsageError("Both names and --all were given.", fix="give names, or --all")
        if everything:
            folders = [model.folder for model in find_models([], default_cache())]
        else:
            folders = [_local_folder(name) for name in names or ["icons"]]
        results = [_verified(folder) for folder in folders]
        if as_json:
            say(json.dumps(results))
        for result in [] if as_json else results:
            if result["problem"] is None:
                say(f"good     {show_path(result['folder'])}: {result['files']} files, {show_size(result['size'])}")
            else:
                say(f"damaged  {show_path(result['folder'])}")
                say(result["problem"], err=True)
        if any(result["problem"] for result in results):
            raise typer.Exit(WEIGHTS)


def remove(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Hub id in the cache, or a model folder."),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub id. Default: all that are in the cache.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Remove a model from the hub's cache on this machine, or a folder that bitvar wrote. Nothing else is touched."""
    with exit_codes():
        from bitvar.weights.hub_cache import default_cache, folder_size, remove_cached

        cache = default_cache()
        cached, folder = _to_remove(name, revision, cache)
        size = folder_size(folder) if folder else sum(model.size for model in cached)
        shown = folder or f"{name} ({', '.join(model.commit[:12] for model in cached)})"
        if not yes:
            _ask(f"Remove {show_path(str(shown))}, {show_size(size)}?")
        freed = remove_cached(cached, cache) if cached else _remove_folder(folder)
        removed = [str(model.folder) for model in cached] or [str(folder)]
        say(json.dumps({"removed": removed, "freed": freed}) if as_json else f"Freed {show_size(freed)}.")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a model or a tokenizer.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Hub id; the repository is created if missing.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see a new repository. Default: only its owner.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence for the card, such as apache-2.0. Default: the card's own.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to. Default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    as_json: _AsJson = False,
) -> None:
    """Publish a model or a tokenizer on the hub, with its card, as one commit. Log in before with `hf auth login`."""
    with exit_codes():
        from bitvar.weights.describe import describe
        from bitvar.weights.hub_push import push_folder

        if licence is None and describe(folder).licence is None:
            say("The card names no licence, so nobody may use the model. --license names one.", err=True)
        made = push_folder(folder, name, private=not public, licence=licence, revision=revision, message=message)
        if made.private == public:
            say(f"{name} existed before, and stays {'private' if made.private else 'public'}.", err=True)
        facts = {"name": made.name, "commit": made.commit, "url": made.url, "private": made.private}
        say(json.dumps(facts | {"files": list(made.files)}) if as_json else f"{made.url} at {made.commit}")


def show_size(size: int) -> str:
    """Format a number of bytes for people, in decimal units."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"


def _local_folder(name: str) -> Path:
    """Find a model on this machine, without a download."""
    from bitvar.errors import WeightsError
    from bitvar.weights.hub import is_hub_id, resolve_model
    from bitvar.weights.hub_cache import default_cache, find_cached

    if not is_hub_id(name) or Path(name).exists():
        return resolve_model(name)
    cached = find_cached(name, None, default_cache())
    if cached is None:
        raise WeightsError(f"{name} is not on this machine.", "the cache has none of that name", "pull it first")
    return cached.folder


def _verified(folder: Path) -> dict[str, Any]:
    from bitvar.errors import WeightsError
    from bitvar.weights.digests import verify_folder
    from bitvar.weights.hub_cache import folder_size

    try:
        count, problem = len(verify_folder(folder)), None
    except WeightsError as error:
        count, problem = 0, str(error)
    return {"folder": str(folder), "files": count, "size": folder_size(folder), "problem": problem}


def _to_remove(name: str, revision: str | None, cache: Path) -> "tuple[list[CachedModel], Path | None]":
    """Find the revisions in the cache, or else the folder, that a name stands for."""
    from bitvar.errors import UsageError
    from bitvar.weights.digests import require_replaceable
    from bitvar.weights.hub import is_hub_id, refuse_revision, resolve_model
    from bitvar.weights.hub_cache import cached_models

    cached = [model for model in cached_models(cache) if model.name == name]
    if cached and not Path(name).exists():
        chosen = [model for model in cached if revision in (None, model.commit, *model.refs)]
        if not chosen:
            why = f"the cache holds {', '.join(model.commit[:12] for model in cached)}"
            raise UsageError(f"The cache has no revision {revision!r} of {name}.", why, "see `bitvar models list`")
        return chosen, None
    if is_hub_id(name) and not Path(name).exists():
        raise UsageError(f"The cache has no model {name!r}.", fix="see `bitvar models list`")
    folder = resolve_model(name)
    refuse_revision(revision, folder, "model")
    if folder.is_symlink():
        raise UsageError(f"{name} is a link.", f"it names {folder.resolve()}", "name the folder itself")
    if folder.resolve().is_relative_to(Path(__file__).parent.parent.resolve()):
        raise UsageError(f"{name} is part of the package.", fix="uninstall bitvar to remove it")
    if not any((folder / kind).is_file() for kind in ("model_index.json", "identity.json")):
        raise UsageError(f"{name} holds no model.", "it has neither model_index.json nor identity.json", "check it")
    require_replaceable(folder)
    return [], folder


def _remove_folder(folder: Path | None) -> int:
    import shutil

    from bitvar.weights.hub_cache import folder_size

    assert folder is not None, "either the cache or a folder holds what is removed"
    size, last = folder_size(folder), {"SHA256SUMS.json", "model_index.json", "identity.json"}
    for path in folder.iterdir():  # what says that the folder is a model goes last, so that a kill can be repeated
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in last:
            path.unlink()
    shutil.rmtree(folder)
    return size


def _ask(question: str) -> None:
    """Ask on the terminal, and stop unless the answer is yes."""
    from bitvar.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError("Nothing was removed.", "there is no terminal to ask on", "repeat the command with --yes")
    if not typer.confirm(question, err=True):
        say("Nothing was removed.", err=True)
        raise typer.Exit(CANCELLED)
