"""Names of image files, made from prompts or patterns. An existing file is replaced only if the user named it.

This module knows nothing about images or models.
"""

import errno
import itertools
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError
from bitvar.files import flush

MAX_NAME_BYTES: Final = 150
"""Maximum length of a name made from a prompt, in bytes, with seed, number and suffix. File systems allow 255."""

MAX_FILE_BYTES: Final = 255
"""Maximum length of a name that the user chose, in bytes: the limit of file systems."""

FIELDS: Final = ("{seed}", "{prompt}", "{index}")
"""Fields of a pattern: the image's seed, the words of its prompt, and its number from 1."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
_RESERVED: Final = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]", re.IGNORECASE)
"""Names that Windows reserves for devices, with any suffix."""


@dataclass(frozen=True)
class Target:
    """The file that an image is written to.

    Attributes:
        path: Path of the file.
        named: Whether the user chose that name. If not, an existing file is kept and a number is appended.
    """

    path: Path
    named: bool


def words_of(prompt: str, *, max_bytes: int = 100) -> str:
    """Turn a prompt into part of a file name: letters and digits of any script, joined by dashes; "image" for none.

    Args:
        prompt: Any text.
        max_bytes: Maximum length in UTF-8. The result is cut between characters, never before an accent.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prompt).lower())
    spelled = (_in_file_name(character) for character in text)
    words = re.sub(r"-+", "-", "".join(spelled)).strip("-")
    while words and unicodedata.category(words[0])[0] == "M":  # an accent without its letter
        words = words[1:].lstrip("-")
    words = _cut(words, max_bytes).strip("-") or "image"
    return f"{words}-image" if _RESERVED.fullmatch(words) else words


def default_name(prompt: str, seed: int, suffix: str = ".png") -> str:
    """Make a file name from the prompt's words and the seed, for an image that the user didn't name."""
    end = f"-{seed}{suffix}"
    return words_of(prompt, max_bytes=MAX_NAME_BYTES - len(end) - 10) + end  # 10: room for an appended number


def targets_of(where: str | Path | None, images: Sequence[tuple[str, int]]) -> list[Target]:
    """Decide where each image of a call goes.

    Args:
        where: None for names made from the prompts, in the current folder; a folder (an existing one, or a text that
            ends in a slash) for such names in that folder; a pattern with `FIELDS`; or a file, which is numbered if
            there are several images.
        images: Prompt and seed of each image.

    Raises:
        UsageError: Two images would get the same name, or a name is too long.
    """
    if where is None or is_folder(where):
        folder = Path("" if where is None else where)
        return [Target(folder / default_name(prompt, seed), named=False) for prompt, seed in images]
    text = str(where)
    if not any(field in text for field in FIELDS):
        path = Path(where)
        numbered = [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(len(images))]
        paths = [path] if len(images) == 1 else numbered
    else:
        paths = [Path(_fill(text, prompt, seed, i + 1)) for i, (prompt, seed) in enumerate(images)]
    _check_different(paths, text)
    for path in paths:
        if len(os.fsencode(path.name)) > MAX_FILE_BYTES:
            why = f"it has {len(os.fsencode(path.name))} bytes, and file systems allow {MAX_FILE_BYTES}"
            raise UsageError(f"The file name {path.name!r} is too long.", why, "choose a shorter one")
    return [Target(path, named=True) for path in paths]


def is_folder(where: str | Path) -> bool:
    """Whether an output names a folder: an existing one, or any text that ends in a slash."""
    return (isinstance(where, str) and where.endswith(("/", os.sep))) or os.path.isdir(where)  # noqa: PTH112  (a Path raises for a long name)


def write_new(path: Path, data: bytes) -> Path:
    """Write a file atomically under the first free name of `x.png`, `x-2.png`, `x-3.png`, ...

    Several processes may call this at once: each gets its own name, and no existing file is touched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        flush(temporary)
        for candidate in _candidates(path):
            if give_name(temporary, candidate):
                flush(candidate.parent)
                return candidate
    finally:
        temporary.unlink(missing_ok=True)
    raise AssertionError("there is always another candidate")


def give_name(temporary: Path, path: Path) -> bool:
    """Give a file that is complete its name. Returns False, and leaves both as they are, if the name is taken.

    The file may keep its temporary name as well.
    """
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    try:  # a file system without links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    temporary.replace(path)
    return True


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _in_file_name(character: str) -> str:
    """Return the character if it is part of a word, nothing if it is invisible, and a dash otherwise."""
    category = unicodedata.category(character)
    if category[0] in "LM" or category in ("Nd", "Nl", "No"):
        return "" if "\ufe00" <= character <= "\ufe0f" else character  # variation selectors only choose a glyph
    return "" if category == "Cf" else "-"


def _cut(text: str, max_bytes: int) -> str:
    if len(text.encode()) <= max_bytes:
        return text
    cut = text.encode()[:max_bytes].decode(errors="ignore")
    if unicodedata.category(text[len(cut)])[0] == "M":
        while cut and unicodedata.category(cut[-1])[0] == "M":
            cut = cut[:-1]
        cut = cut[:-1]
    return cut


def _fill(pattern: str, prompt: str, seed: int, index: int) -> str:
    values = {"{seed}": str(seed), "{prompt}": words_of(prompt), "{index}": str(index)}
    return re.sub("|".join(map(re.escape, FIELDS)), lambda match: values[match[0]], pattern)


def _check_different(paths: Sequence[Path], pattern: str) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            why = f"the pattern {pattern!r} gives {path} to both"
            raise UsageError("Two images would get the same name.", why, "put {seed} or {index} into it")
        seen.add(path)
