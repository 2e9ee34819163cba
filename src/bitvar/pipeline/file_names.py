"""Names of image files: made of prompts, filled into patterns, and never those of files that are there already.

Knows nothing of images or models.
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
"""The longest name made of a prompt, in UTF-8, with seed, number and suffix. File systems allow 255."""

MAX_FILE_BYTES: Final = 255
"""The longest name of a file that the user chose, as file systems have it."""

FIELDS: Final = ("{seed}", "{prompt}", "{index}")
"""What a pattern may hold: the image's own seed, the words of its prompt, and its number from 1."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
_RESERVED: Final = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever suffix follows."""


@dataclass(frozen=True)
class Target:
    """Where one image goes.

    Attributes:
        path: the file.
        named: whether the user chose that name. If not, a file that is there already is kept and a number appended.
    """

    path: Path
    named: bool


def words_of(prompt: str, *, max_bytes: int = 100) -> str:
    """A prompt as part of a file name: letters and digits of any script, joined by dashes; "image" if it has none.

    Args:
        prompt: any text.
        max_bytes: the longest result in UTF-8. It is cut between characters, never inside one or before an accent.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", prompt).lower())
    kept = (_kept(character) for character in text)
    words = re.sub(r"-+", "-", "".join(kept)).strip("-")
    while words and unicodedata.category(words[0])[0] == "M":  # an accent without its letter
        words = words[1:].lstrip("-")
    words = _cut(words, max_bytes).strip("-") or "image"
    return f"{words}-image" if _RESERVED.fullmatch(words) else words


def default_name(prompt: str, seed: int, suffix: str = ".png") -> str:
    """The name of an image whose file nobody named: the prompt's words and the seed."""
    end = f"-{seed}{suffix}"
    return words_of(prompt, max_bytes=MAX_NAME_BYTES - len(end) - 10) + end  # 10: room for an appended number


def targets_of(where: str | Path | None, images: Sequence[tuple[str, int]]) -> list[Target]:
    """Where each image of a call goes.

    Args:
        where: None for names made of the prompts, in the current folder; a folder (one that exists, or a text that ends
            in a slash) for the same in there; a pattern with `FIELDS`; or a file, which is numbered if there are
            several images.
        images: prompt and seed of each.

    Raises:
        UsageError: if two images would get the same name, or a name is too long.
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
        paths = [Path(_filled(text, prompt, seed, i + 1)) for i, (prompt, seed) in enumerate(images)]
    _check_different(paths, text)
    for path in paths:
        if len(os.fsencode(path.name)) > MAX_FILE_BYTES:
            why = f"it has {len(os.fsencode(path.name))} bytes; {MAX_FILE_BYTES} are allowed"
            raise UsageError(f"The file name {path.name!r} is too long.", why, "choose a shorter one")
    return [Target(path, named=True) for path in paths]


def is_folder(where: str | Path) -> bool:
    """Whether an output names a folder: one that exists, or any text that ends in a slash."""
    return (isinstance(where, str) and where.endswith(("/", os.sep))) or os.path.isdir(where)  # noqa: PTH112  (a Path raises for a long name)


def write_new(path: Path, data: bytes) -> Path:
    """Write a file under the first free name of `x.png`, `x-2.png`, `x-3.png`, ...; whole or not at all.

    Several processes may do so at once: each gets a name of its own, and no file that is there is touched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        flush(temporary)
        for candidate in _candidates(path):
            if _claim(temporary, candidate):
                flush(candidate.parent)
                return candidate
    finally:
        temporary.unlink(missing_ok=True)
    raise AssertionError("the candidates never end")


def _claim(temporary: Path, path: Path) -> bool:
    """Give the temporary file its name, unless that is taken."""
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


def _kept(character: str) -> str:
    """The character itself if it is part of a word, nothing for one that isn't seen, else a dash."""
    category = unicodedata.category(character)
    if category[0] in "LM" or category in ("Nd", "Nl", "No"):
        return "" if "\ufe00" <= character <= "\ufe0f" else character  # variation selectors choose a drawing
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


def _filled(pattern: str, prompt: str, seed: int, index: int) -> str:
    values = {"{seed}": str(seed), "{prompt}": words_of(prompt), "{index}": str(index)}
    return re.sub("|".join(map(re.escape, FIELDS)), lambda found: values[found[0]], pattern)


def _check_different(paths: Sequence[Path], pattern: str) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            why = f"the pattern {pattern!r} gives both {path}"
            raise UsageError("Two images would get the same name.", why, "put {seed} or {index} into it")
        seen.add(path)
