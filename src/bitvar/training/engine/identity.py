"""Run identity: everything that must be unchanged for a run to resume from a checkpoint and compute the same weights.

The identity holds the whole configuration, and content digests of the frozen models, the initial weights and the data.
Every checkpoint stores it. On resume, fields are compared by name, and a field that an older checkpoint lacks is
ignored, unless `BEFORE` knows what such a run computed. This module knows nothing of models or of the training loop.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from bitvar.data.index import MANIFEST as INDEX_MANIFEST
from bitvar.data.index import SampleIndex, is_index
from bitvar.data.samples import read_samples
from bitvar.errors import UsageError, explain
from bitvar.files import open_plain, write_text

NONE: Final = "none"
"""Value of an identity field for something that the run does not use."""

FREE: Final = ("intervals",)
"""Configuration sections that decide when things happen but do not affect the weights; they may change on resume."""

STEPS: Final = "optimization.steps"

BEFORE: Final = {"optimization.muon_precision": '"fp32"'}
"""Values, as JSON, of settings that a checkpoint may lack because all runs computed that way when it was made."""

_SHORT: Final = 12
_SHOWN: Final = 8


@dataclass(frozen=True)
class RunIdentity:
    """Everything that determines the weights that a run computes.

    Attributes:
        configuration: Whole configuration, as JSON values.
        parts: Digests of the inputs by name: the frozen models, the initial weights and the data.
    """

    configuration: Mapping[str, Any]
    parts: Mapping[str, str] = field(default_factory=dict)

    def changes_from(self, saved: "RunIdentity") -> list["Change"]:
        """List the differences from a checkpoint's identity, ignoring intervals and fields that it does not name."""
        now = _flat(self.configuration)
        before = {name: value for name, value in BEFORE.items() if name in now} | _flat(saved.configuration)
        names = [name for name in before if name.split(".")[0] not in FREE]  # newer settings aren't in it
        settings = [Change(name, _plain(before, name), _plain(now, name)) for name in names]
        parts = [
            Change(name, _short(value), _short(self.parts[name]))
            for name, value in sorted(saved.parts.items())
            if name in self.parts and self.parts[name] != value
        ]
        return sorted((change for change in settings if change.before != change.now), key=str) + parts


@dataclass(frozen=True)
class Change:
    """A field in which two identities differ, formatted for the user."""

    name: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.name} was {self.before}, now {self.now}"


def require_same(
    saved: RunIdentity, now: RunIdentity, *, checkpoint: Path, extend: bool = False
) -> tuple[int, int] | None:
    """Raise an error if a checkpoint belongs to a run with another identity.

    Args:
        saved: Identity stored in the checkpoint.
        now: Identity of the current run.
        checkpoint: Path of the checkpoint, for the error message.
        extend: Whether `optimization.steps` may be larger than before.

    Returns:
        Number of steps before and after the extension; None if the run is not extended.

    Raises:
        UsageError: If the identities differ. The message gives the old and new values and says how to proceed.
    """
    changes = now.changes_from(saved)
    longer = [change for change in changes if change.name == STEPS]
    others = [change for change in changes if change.name != STEPS]
    if not changes:
        return None
    if not others and longer:
        before, after = int(longer[0].before), int(longer[0].now)
        if extend and after > before:
            return before, after
        raise UsageError(_about_steps(checkpoint, before, after, now, extend=extend))
    settings = any(change.name.split(".")[0] in now.configuration for change in others)
    what = "with other settings" if settings else "with other data or models"
    shown = "; ".join(map(str, changes[:_SHOWN])) + (f"; and {len(changes) - _SHOWN} more" * (len(changes) > _SHOWN))
    raise UsageError(
        f"{checkpoint} was made {what}.",
        f"a run resumes only with the settings, data and models it started with: {shown}",
        "restore them, or choose another --out" + _from_weights(checkpoint, now, " (and start there with {})"),
    )


def _from_weights(checkpoint: Path, now: RunIdentity, text: str) -> str:
    """Format the advice to start a new run from the checkpoint; empty for adapters, which no run can start from."""
    adapters = now.configuration.get("lora") or now.configuration.get("control")
    return "" if adapters else text.format(f"--init {checkpoint}")


def _about_steps(checkpoint: Path, before: int, after: int, now: RunIdentity, *, extend: bool) -> str:
    asked = f"{STEPS} was {before}, now {after}"
    if after > before:
        todo = f"add --extend to continue on the learning-rate schedule of {after} steps"
        todo += _from_weights(checkpoint, now, ", or start a new run from its weights: another --out and {}")
        return explain(f"{checkpoint} belongs to a run of {before} steps.", asked, todo)
    why = f"{asked}: {'--extend adds steps and takes none away' if extend else 'the learning rate depends on it'}"
    todo = f"restore {STEPS}={before}, or export an earlier step: bitvar export RUN DEST --step N"
    return explain(f"{checkpoint} belongs to a run of {before} steps.", why, todo)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every setting by its dotted name, as JSON text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat


def _plain(flat: Mapping[str, str], name: str) -> str:
    inside = {
        key.removeprefix(f"{name}."): json.loads(value) for key, value in flat.items() if key.startswith(f"{name}.")
    }
    text = flat.get(name) or (json.dumps(inside) if inside else "not set")
    return text if len(text) <= 200 else f"{text[:200]}... ({_short(hashlib.sha256(text.encode()).hexdigest())})"


def _short(value: str) -> str:
    is_digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"sha256 {value[:_SHORT]}" if is_digest else value


# Data by content


class FileDigests:
    """SHA-256 digests of files, computed in parallel and cached in the run's folder.

    A file is read again only if its size, mtime or ctime has changed. Copying and `touch` can't set the ctime back.

    Args:
        cache: JSON file that stores the digests. A damaged one is rebuilt.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known = _read_cache(cache)

    def of(self, paths: Sequence[Path]) -> list[str]:
        """Return the digest of each file.

        Raises:
            UsageError: If a file can't be read. The message names its path.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="digest") as pool:
            found = list(pool.map(self._read_digest, paths))
        known = {os.fsencode(path).hex(): entry for path, entry in zip(paths, found, strict=True)}
        if known.items() - self._known.items():
            self._known |= known
            write_text(self._cache, json.dumps(self._known))
        return [entry[1] for entry in found]

    def _read_digest(self, path: Path) -> tuple[str, str]:
        try:
            status = path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            known = self._known.get(os.fsencode(path).hex())
            if known is not None and known[0] == stamp:
                return known
            with open_plain(path) as file:
                return stamp, hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
        except OSError as error:
            why = f"{path}: {error.strerror or error}"
            raise UsageError("A file of the data can't be read.", why, "restore it, or rebuild the set") from None


def _read_cache(cache: Path) -> dict[str, tuple[str, str]]:
    try:
        values = json.loads(cache.read_bytes())
        return {str(path): (str(stamp), str(digest)) for path, (stamp, digest) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def digest_of(lines: Iterable[str]) -> str:
    """Return one SHA-256 digest of several texts, in order."""
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def describe_data(data: Path, digests: FileDigests, *, images: Callable[[], Sequence[Path]]) -> dict[str, str]:
    """Return the identity fields that describe a run's data by content.

    Args:
        data: Index, captioned set, or folder of images.
        digests: Digest cache of the run.
        images: Lists the files of a folder of images; called only for such a folder.

    Raises:
        UsageError: If a file is missing, or a file of an index differs from the indexed one.
    """
    if is_index(data):
        return {"data (index)": _describe_index(data, digests)}
    samples = data / "samples.jsonl"
    if samples.is_file():
        names = sorted({sample.path for sample in read_samples(data, split=None)})
        return {
            "data (samples.jsonl)": digests.of([samples])[0],
            "data (images)": _describe_files(data, names, digests),
        }
    return {"data (images)": _describe_files(data, sorted(images()), digests)}


def _describe_files(folder: Path, paths: Sequence[Path], digests: FileDigests) -> str:
    found = zip(paths, digests.of(paths), strict=True)
    return digest_of(f"{os.path.relpath(path, folder)} {digest}" for path, digest in found)


def _describe_index(data: Path, digests: FileDigests) -> str:
    manifest = SampleIndex.open(data).manifest
    names = sorted(manifest.files)
    for name, digest in zip(names, digests.of([data / name for name in names]), strict=True):
        if digest != manifest.files[name].sha256:
            listed = manifest.files[name].sha256[:_SHORT]
            why = f"{name} is sha256 {digest[:_SHORT]}, not {listed} as listed in {INDEX_MANIFEST}"
            raise UsageError(f"The index {data} is damaged.", why, "rebuild it: bitvar data index")
    groups = [group.model_dump_json() for group in manifest.groups]
    return digest_of([*(f"{name} {manifest.files[name].sha256}" for name in names), *groups])
