"""Models from the hub on this machine: what the hub's cache holds, pulling into it, and removing from it.

The cache is that of `huggingface_hub`, which other programs share. Only repositories with a manifest of digests are
models of bitvar; nothing else in the cache is listed, changed or removed. Listing loads neither torch nor
`huggingface_hub`.
"""

import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError, WeightsError
from bitvar.weights.digests import MANIFEST, digest, is_inside, is_note, verify_folder
from bitvar.weights.hub import DOWNLOADED, explain_hub_error, is_hub_id
from bitvar.weights.hub_download import download_weights

KINDS: Final = ("model_index.json", "identity.json")
"""Files beside the manifest, one of which says that a folder is a model or a tokenizer."""

_SMALL: Final = tuple(pattern for pattern in DOWNLOADED if pattern != "*.safetensors")
_PREFIX: Final = "models--"
_ROOM: Final = 256 << 20
"""Bytes that a download leaves free on the disk."""


@dataclass(frozen=True)
class CachedModel:
    """A revision of a model or a tokenizer in the hub's cache.

    Attributes:
        name: Hub id, `owner/name`.
        commit: Commit of the revision, 40 hexadecimal digits.
        refs: Branches and tags that pointed to the commit when they were last asked for, sorted.
        folder: Folder of its files.
        missing: Listed files that are not there, sorted; empty for a complete one.
        size: Bytes of its files on the disk. Revisions may share files.
    """

    name: str
    commit: str
    refs: tuple[str, ...]
    folder: Path
    missing: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Download:
    """What pulling a model would download.

    Attributes:
        name: Hub id.
        revision: Branch, tag or commit that was asked for; None for the repository's main branch.
        commit: Commit that the revision points to.
        files: Bytes of each file to download, by name.
    """

    name: str
    revision: str | None
    commit: str
    files: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def default_cache() -> Path:
    """Return the hub's cache folder, as `huggingface_hub` was told."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_models(cache: Path) -> list[CachedModel]:
    """List the models and tokenizers of bitvar in the hub's cache, by name and then commit.

    Args:
        cache: The cache folder, which need not exist.
    """
    found = []
    for manifest in sorted(cache.glob(f"{_PREFIX}*/snapshots/*/{MANIFEST}")):
        folder = manifest.parent
        if not any((folder / name).is_file() for name in KINDS):
            continue
        repository = folder.parent.parent
        found.append(
            CachedModel(
                name=repository.name.removeprefix(_PREFIX).replace("--", "/", 1),
                commit=folder.name,
                refs=_refs(repository / "refs", folder.name),
                folder=folder,
                missing=_missing(folder),
                size=folder_size(folder),
            )
        )
    return found


def find_cached(name: str, revision: str | None, cache: Path) -> CachedModel | None:
    """Find a model in the hub's cache: the revision, or what main pointed to, or else its newest download."""
    named = [model for model in cached_models(cache) if model.name == name]
    if revision is not None:
        return next((model for model in named if model.commit == revision or revision in model.refs), None)
    main = [model for model in named if "main" in model.refs]
    return max(main or named, key=lambda model: model.folder.stat().st_mtime, default=None)


def folder_size(folder: Path) -> int:
    """Add up the bytes of the files in a folder. Links count as the files that they name; broken ones as nothing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def plan_download(name: str, revision: str | None = None) -> Download:
    """Ask the hub what a model consists of. Nothing is downloaded.

    Args:
        name: Hub id.
        revision: Branch, tag or commit.

    Raises:
        UsageError: for a name that is no hub id.
        WeightsError: if the hub can't be asked, has no such model, or has a repository that is no model of bitvar.
    """
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    if not is_hub_id(name):
        raise UsageError(f"{name!r} is no hub id.", "a hub id is OWNER/NAME", "check the name")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    except Exception as error:  # network libraries raise errors of many classes
        why, fix = explain_hub_error(error), "check the name, the revision and the network"
        why = why.replace(", and it is not in the cache", "")
        raise WeightsError(f"Can't pull {name}.", why, fix) from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if MANIFEST not in sizes or not any(kind in sizes for kind in KINDS):
        why = f"it has no {MANIFEST} beside model_index.json or identity.json"
        fix = "official weights become a model by `bitvar convert`; an adapter is fetched by --lora"
        raise WeightsError(f"{name} is no model of bitvar.", why, fix)
    wanted = {file: size for file, size in sizes.items() if any(fnmatch(file, pattern) for pattern in DOWNLOADED)}
    return Download(name, revision, str(info.sha), wanted)


def pull(download: Download, cache: Path, *, log: Callable[[str], None] = lambda line: None) -> Path:
    """Download a model into the hub's cache and verify every digest.

    An interrupted download continues where it stopped. Files that were altered in the cache are downloaded again.

    Args:
        download: What to download.
        cache: The cache folder.
        log: Function called with a line for each thing worth knowing.

    Returns:
        The folder of the model's files.

    Raises:
        WeightsError: if the download fails, if the disk is too small, or if the files are not the ones that the
            manifest lists.
    """
    _require_room(download, cache)
    _fetch(download, cache, _SMALL)  # first, so that an interrupted download is known as a model
    folder = _fetch_all(download, cache)
    try:
        verify_folder(folder)
    except WeightsError:
        listed = read_listed(folder / MANIFEST)
        altered = [name for name, expected in listed.items() if _is_altered(folder / name, expected)]
        if not altered:
            raise
        log(f"downloading again, since altered in the cache: {', '.join(altered)}")
        for name in altered:
            _forget(folder / name, cache)
        verify_folder(_fetch_all(download, cache))
    return folder


def fetch_description(download: Download, cache: Path) -> Path:
    """Download the small files of a model, which describe it, and return their folder."""
    return _fetch(download, cache, _SMALL)


def remove_cached(models: Sequence[CachedModel], cache: Path) -> int:
    """Remove revisions from the hub's cache. Files that other revisions share stay.

    Args:
        models: Revisions, as `cached_models` lists them.
        cache: The cache folder.

    Returns:
        Bytes freed on the disk.

    Raises:
        OSError: if a file can't be removed.
    """
    from huggingface_hub import scan_cache_dir

    strategy = scan_cache_dir(cache).delete_revisions(*(model.commit for model in models))
    strategy.execute()
    left = [model.folder for model in models if model.folder.exists()]
    if left:  # deleting warns instead of raising
        raise PermissionError(errno.EACCES, "it could not be removed", str(left[0]))
    return strategy.expected_freed_size


def _fetch_all(download: Download, cache: Path) -> Path:
    return _fetch(download, cache, DOWNLOADED, weights=download.files)


def _fetch(
    download: Download, cache: Path, patterns: Sequence[str], *, weights: Mapping[str, int] | None = None
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        if weights:
            download_weights(download.name, download.commit, weights, cache)
        folder = snapshot_download(
            download.name, revision=download.revision, cache_dir=cache, allow_patterns=list(patterns)
        )
    except OSError as error:
        if error.errno is not None:  # the disk, which has its own message
            raise
        raise _failed(download, error) from None
    except Exception as error:  # network libraries raise errors of many classes
        raise _failed(download, error) from None
    if Path(folder).name != download.commit:
        why = f"it moved to {Path(folder).name[:12]} during the download"
        raise WeightsError(f"The revision of {download.name} changed.", why, "repeat the command")
    return Path(folder)


def _failed(download: Download, error: Exception) -> WeightsError:
    fix = "repeat the command: it continues where it stopped"
    return WeightsError(f"Can't pull {download.name}.", explain_hub_error(error), fix)


def _require_room(download: Download, cache: Path) -> None:
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    cached = find_cached(download.name, download.commit, cache)
    present = cached.size if cached else 0
    needed, free = max(0, download.size - present) + _ROOM, shutil.disk_usage(place).free
    if free < needed:
        why = f"it takes {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free"
        raise WeightsError(f"There is no room for {download.name}.", why, "free some space, or set HF_HOME elsewhere")


def _refs(folder: Path, commit: str) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    files = [path for path in folder.rglob("*") if path.is_file()]
    return tuple(
        sorted(path.relative_to(folder).as_posix() for path in files if path.read_text("utf-8").strip() == commit)
    )


def read_listed(manifest: Path) -> dict[str, str]:
    """Read the digests of the files that a manifest lists, except notes; empty for one that can't be read."""
    try:
        sums: Any = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(sums, dict):
        return {}
    return {name: str(value) for name, value in sums.items() if is_inside(name) and not is_note(name)}


def _missing(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(name for name in read_listed(folder / MANIFEST) if not (folder / name).is_file()))


def _is_altered(path: Path, expected: str) -> bool:
    return path.is_file() and digest(path) != expected


def _forget(path: Path, cache: Path) -> None:
    """Remove a file of a snapshot, and the blob that it links to if that is in the cache."""
    blob = path.resolve()
    path.unlink()
    if blob.is_relative_to(cache.resolve()):
        blob.unlink(missing_ok=True)
