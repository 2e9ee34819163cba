"""Files and folders that are whole or absent, and files that are safe to open. Knows nothing of what is in them.

A new file or folder is written under a hidden name beside its own, `.NAME.XXXXXXXX.partial`, and renamed once it is
complete. A folder that is replaced waits as `.NAME.XXXXXXXX.old` until the new one has its name; a process killed
between the two leaves it there, and the next write to that folder, or `recover_folder`, gives it its name back. Only
names of these two forms are ever removed.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/v1"
"""How the small text begins that Git LFS keeps in place of a file until the file is fetched."""

REPLACING: Final = threading.RLock()
"""Held while a folder is looked at and replaced, so that no thread looks at one that another is replacing."""

_LONGEST_LABEL: Final = 120  # bytes of a name that a hidden one repeats; file systems allow 255
_LITTLE_SPACE: Final = 4 << 20
_VAGUE: Final = ("encoder error", "PytorchStreamWriter failed writing", "inline_container.cc", "iostream error")
"""What Pillow and PyTorch say of a disk that refuses, whatever its reason."""
_TAKEN: Final = (errno.ENOTEMPTY, errno.EEXIST)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under; on success it takes the name `path`, on failure it is removed.

    A symbolic link stays, and its target is replaced or made. A file that is replaced leaves its permissions to the
    new one. A pipe or a device is never replaced: what was written is copied into it.

    Raises:
        OSError: for a disk that fails, whatever the writer called it, with the errno and with `path` as its filename.
    """
    with named_disk_errors(path) as temporaries, contextlib.ExitStack() as cleaning:
        target = None if _opens_as_stream(path) else _follow(path)
        if target is None:
            folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="bitvar-"))
            temporary = Path(folder) / "output"
        elif target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        else:
            temporary = _beside(target, "partial")
        temporaries.append(temporary)
        cleaning.callback(_remove, temporary)
        mode = _create(temporary)
        yield temporary
        if target is None:
            _copy_into(temporary, path)
            return
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(target.stat().st_mode)
        temporary.chmod(mode)
        flush(temporary)
        temporary.replace(target)
        _flush_parent(target)


@contextlib.contextmanager
def replaced_folder(folder: Path, *, check: Callable[[Path], None], seal: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary folder to fill; on success it takes the name `folder`, on failure it is removed.

    At no moment is neither the old folder nor the new one on the disk, and where the renaming fails the old one is put
    back. A symbolic link to a folder stays, and its target is replaced.

    Args:
        folder: to write; its parents are made.
        check: raises for a folder that must not be replaced; called with one that exists, before and after the work.
        seal: called with the filled folder before it is renamed.

    Raises:
        OSError: as `atomic_path`.
    """
    target = _follow(folder)
    with named_disk_errors(folder) as temporaries:
        target.parent.mkdir(parents=True, exist_ok=True)
        with REPLACING:
            recover_folder(target)
            if _exists(target):
                check(target)
        temporary = _beside(target, "partial")
        temporaries.append(temporary)
        try:
            temporary.mkdir()
            yield temporary
            seal(temporary)
            for path in temporary.rglob("*"):
                flush(path)
            flush(temporary)
            with REPLACING:
                if _exists(target):
                    check(target)
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                _swap(temporary, target)
        finally:
            _remove(temporary)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """As `replaced_folder`, for a name that nothing has but an empty folder.

    Raises:
        OSError: also where something has the name.
    """

    def require_empty(found: Path) -> None:
        if not found.is_dir() or any(found.iterdir()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))

    with replaced_folder(folder, check=require_empty, seal=lambda _: None) as temporary:
        yield temporary


def recover_folder(folder: Path) -> None:
    """Give a folder its name back if a process was killed while replacing it; remove what else that process left."""
    target = _follow(folder)
    form = re.compile(rf"\.{re.escape(_label(target.name))}\.[0-9a-f]{{8}}\.old")
    if not target.parent.is_dir():
        return
    left = [path for path in target.parent.iterdir() if form.fullmatch(path.name) and not path.is_symlink()]
    for path in sorted(left, reverse=True):
        if not _exists(target):
            with contextlib.suppress(OSError):  # the process that put it aside lives, and was faster
                path.rename(target)
                _flush_parent(target)
                continue
        _remove(path)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def flush(path: Path) -> None:
    """Have a file's or folder's content on the disk, not only on its way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[io.BufferedReader]:
    """A file to read; a pipe or a device, which might never answer or never end, is an OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is a pipe or a device", str(path))
        yield file


def read_plain(path: Path) -> bytes:
    """The bytes of a file; errors as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def is_file_name(text: str) -> bool:
    """Whether a file could have this path: it has characters, no NUL, and none that can't be written down."""
    try:
        return text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS has yet to fetch this file."""
    with open_plain(path) as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


@contextlib.contextmanager
def named_disk_errors(path: Path) -> Iterator[list[Path]]:
    """Raise what libraries say of a failing disk as the OSError it is, with `path` as its filename.

    Yields a list for temporary names, to each of which `path` is preferred in errors.
    """
    temporaries: list[Path] = []
    try:
        yield temporaries
    except Exception as error:
        code = _disk_errno(error, path)
        if code is None:
            raise
        place = getattr(error, "filename", None)
        if place is None or any(Path(os.fsdecode(place)).is_relative_to(each) for each in temporaries):
            place = str(path)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = place
            raise
        raise OSError(code, os.strerror(code), place) from error


def _disk_errno(error: Exception, path: Path) -> int | None:
    """The errno behind an error of writing; None for an error of another kind."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if type(error).__name__ == "SafetensorError":
        found = re.search(r"\(os error (\d+)\)", text)
        return int(found[1]) if found else None
    if isinstance(error, OSError | RuntimeError) and any(words in text for words in _VAGUE):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(path.absolute().parent).free < _LITTLE_SPACE:
                return errno.ENOSPC
        return errno.EIO
    return None


def _swap(new: Path, target: Path) -> None:
    """Give a folder the name of another, which is removed once it has it, or put back if it can't have it."""
    while True:
        old = _beside(target, "old")
        with contextlib.ExitStack() as undo:
            try:
                target.rename(old)
            except FileNotFoundError:
                pass
            else:
                undo.callback(_put_back, old, target)
            try:
                new.rename(target)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                undo.pop_all()  # another process or thread was faster: its folder is the next to replace
            else:
                undo.pop_all()
                _flush_parent(target)
                _remove(old)
                return
        _remove(old)


def _put_back(old: Path, target: Path) -> None:
    try:
        old.rename(target)
    except OSError as error:
        if error.errno in _TAKEN:  # another process has given the name away since
            return
        why = f"{error.strerror}; the folder that had this name is now {old}"
        raise OSError(error.errno, why, str(target)) from None


def _beside(path: Path, ending: str) -> Path:
    """A hidden name in the same folder that nobody has."""
    return path.with_name(f".{_label(path.name)}.{secrets.token_hex(4)}.{ending}")


def _label(name: str) -> str:
    """A name, or the beginning of a long one with a digest of it all."""
    if len(os.fsencode(name)) <= _LONGEST_LABEL:
        return name
    short = name
    while len(os.fsencode(short)) > _LONGEST_LABEL:
        short = short[:-1]
    return f"{short}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _create(path: Path) -> int:
    """Make a file that is not there yet; its permissions, as the umask has them."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _follow(path: Path) -> Path:
    """The absolute place that a path leads to, through links, whether there is anything or not."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _opens_as_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or a stream that is open already, such as /dev/stdout."""
    if _open_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_descriptor(path: Path) -> int | None:
    """The number of the open stream that a path names, if it names one of this process."""
    place = Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")
    for _ in range(40):
        found = re.fullmatch(rf"/(?:dev|proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)", str(place))
        if found:
            return int(found[1])
        if not place.is_symlink():
            return None
        place = Path(os.path.normpath(place.parent / place.readlink()))
    return None


def _copy_into(source: Path, path: Path) -> None:
    descriptor = _open_descriptor(path)
    opened = os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor)
    with source.open("rb") as content, os.fdopen(opened, "wb") as stream:
        shutil.copyfileobj(content, stream)


def _flush_parent(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # a folder that may be written to and not read
        flush(path.parent)


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
