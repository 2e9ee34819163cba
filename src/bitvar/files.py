"""Atomic writing of files and folders, and safe opening of files, whatever their content.

A new file or folder is written in the same place under a hidden name, `.NAME.XXXXXXXX.partial`, and renamed once it is
complete. A replaced folder is kept as `.NAME.XXXXXXXX.old` until the new one has its name. If the process is killed in
between, the next write to that folder, or `recover_folder`, restores its name. Only names of these two forms are ever
removed.
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
"""The beginning of the small text that Git LFS keeps in place of a file that has not been fetched."""

REPLACING: Final = threading.RLock()
"""Lock held while a folder is inspected and replaced, so that no thread inspects one that another is replacing."""

_LONGEST_LABEL: Final = 120  # bytes of a name that are repeated in its hidden name; file systems allow 255
_LITTLE_SPACE: Final = 4 << 20
_VAGUE: Final = ("encoder error", "PytorchStreamWriter failed writing", "inline_container.cc", "iostream error")
"""Parts of the vague messages that Pillow and PyTorch give for any disk failure."""
_TAKEN: Final = (errno.ENOTEMPTY, errno.EEXIST)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write a file under. On success it is renamed to `path`; on failure it is removed.

    A symbolic link is kept, and its target is replaced or created. The new file gets the permissions of the one it
    replaces. A pipe or a device is never replaced; the content is copied into it.

    Raises:
        OSError: if the disk fails, whatever error the writer raised. It has the errno, and `path` as its filename.
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
    """Yield a temporary folder to fill. On success it is renamed to `folder`; on failure it is removed.

    The old folder or the new one is on the disk at every moment, and the old one is restored if renaming fails. A
    symbolic link to a folder is kept, and its target is replaced.

    Args:
        folder: Folder to write; its parents are created.
        check: Function that raises for a folder that must not be replaced. Called with the existing folder before and
            after the work.
        seal: Function called with the filled folder before it is renamed.

    Raises:
        OSError: as for `atomic_path`.
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
    """Yield a temporary folder as `replaced_folder` does, for a name that is free or belongs to an empty folder.

    Raises:
        OSError: as for `atomic_path`, or if the name is taken.
    """

    def require_empty(target: Path) -> None:
        if not target.is_dir() or any(target.iterdir()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))

    with replaced_folder(folder, check=require_empty, seal=lambda _: None) as temporary:
        yield temporary


def recover_folder(folder: Path) -> None:
    """Restore the name of a folder if a process was killed while replacing it, and remove other leftovers."""
    target = _follow(folder)
    form = re.compile(rf"\.{re.escape(_label(target.name))}\.[0-9a-f]{{8}}\.old")
    if not target.parent.is_dir():
        return
    left = [path for path in target.parent.iterdir() if form.fullmatch(path.name) and not path.is_symlink()]
    for path in sorted(left, reverse=True):
        if not _exists(target):
            with contextlib.suppress(OSError):  # the process that moved it aside is alive, and was faster
                path.rename(target)
                _flush_parent(target)
                continue
        _remove(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def flush(path: Path) -> None:
    """Flush the content of a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading. A pipe or a device, which might block or never end, raises an OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is a pipe or a device", str(path))
        yield file


def read_plain(path: Path) -> bytes:
    """Read a whole file that `open_plain` opens."""
    with open_plain(path) as file:
        return file.read()


def is_file_name(text: str) -> bool:
    """Whether a string can be a path: it is not empty, has no NUL, and can be encoded."""
    try:
        return text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer that Git LFS has not replaced yet."""
    with open_plain(path) as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


@contextlib.contextmanager
def named_disk_errors(path: Path) -> Iterator[list[Path]]:
    """Convert the errors that libraries raise for a failing disk to an OSError with `path` as its filename.

    Yields:
        A list to append temporary names to. Errors name `path` in place of any of them.
    """
    temporaries: list[Path] = []
    try:
        yield temporaries
    except Exception as error:
        code = _disk_errno(error, path)
        if code is None:
            raise
        place = getattr(error, "filename", None)
        if place is None or any(Path(os.fsdecode(place)).is_relative_to(temporary) for temporary in temporaries):
            place = str(path)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = place
            raise
        raise OSError(code, os.strerror(code), place) from error


def _disk_errno(error: Exception, path: Path) -> int | None:
    """Find the errno of a write error; None for an error of another kind."""
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
    """Rename `new` to `target`. The old target is removed afterwards, or restored if renaming fails."""
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
        if error.errno in _TAKEN:  # another process has taken the name
            return
        why = f"{error.strerror}; the folder that had this name is now {old}"
        raise OSError(error.errno, why, str(target)) from None


def _beside(path: Path, ending: str) -> Path:
    """Make an unused hidden name in the same folder."""
    return path.with_name(f".{_label(path.name)}.{secrets.token_hex(4)}.{ending}")


def _label(name: str) -> str:
    """Return a name, shortened to its beginning and a digest if it is long."""
    if len(os.fsencode(name)) <= _LONGEST_LABEL:
        return name
    short = name
    while len(os.fsencode(short)) > _LONGEST_LABEL:
        short = short[:-1]
    return f"{short}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _create(path: Path) -> int:
    """Create a file, which must not exist, and return its permissions under the umask."""
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
    """Resolve a path through links to an absolute one, which need not exist."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _opens_as_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device, or an open stream such as /dev/stdout."""
    if _open_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_descriptor(path: Path) -> int | None:
    """Return the descriptor of the open stream of this process that a path names; None if it names none."""
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
    with contextlib.suppress(PermissionError):  # a folder that may be written to but not read
        flush(path.parent)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
