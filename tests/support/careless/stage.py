"""Where a case plays: a folder of its own, a seeded generator, commands in processes of their own, and what is checked.

A case is a function that takes a `Stage`, makes files in its folder, runs commands, and raises `WrongError` for what
should not have come of it. Whatever the case, a command must neither raise, hang, nor say an error in other than three
lines.
"""

import hashlib
import io
import os
import random
import re
import resource
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

LIMIT = 10.0
"""Seconds that a command may take. Those in which it waits for a processor don't count."""

PATIENCE = 60.0
"""Seconds in all, whatever it waits for."""

MEMORY = 6 << 30
TRACEBACK = 70
HANG = 71
_NOISE = re.compile(r"^\w*Warning: |Traceback \(most recent call last\)|Exception ignored|pyo3_runtime", re.MULTILINE)


class WrongError(AssertionError):
    """What a case found wrong."""


def expect(condition: object, message: str) -> None:
    """Something must hold."""
    if not condition:
        raise WrongError(message)


@dataclass(frozen=True)
class Done:
    """What came of a command: its words, exit code, what it printed, and the seconds it took."""

    words: tuple[str, ...]
    code: int
    out: bytes
    err: str
    seconds: float

    def __str__(self) -> str:
        words = " ".join(word if len(word) < 80 else f"{word[:60]}..." for word in self.words)
        shown = words.encode(errors="backslashreplace").decode()
        first = f"bitvar {shown}\n  exit {self.code} after {self.seconds:.1f} s"
        return f"{first}\n  out: {self.out[-600:]!r}\n  err: {self.err[-1500:]}"


class Stage:
    """One case's folder, randomness and commands.

    Attributes:
        folder: empty at first.
        shared: sound files that everyone copies from and nobody changes.
        random: seeded by the case.
        number: the case's within its kind, so that every form of the kind has its turn.
    """

    def __init__(self, folder: Path, shared: Path, seed: str, number: int) -> None:
        self.folder, self.shared, self.random, self.number = folder, shared, random.Random(seed), number
        self.notes: list[str] = []

    def turn(self, choices: Iterable[Any]) -> Any:
        """One of several forms: the next one for each case of the kind."""
        forms = list(choices)
        form = forms[self.number % len(forms)]
        self.note(form)
        return form

    def pick(self, choices: Iterable[Any]) -> Any:
        """One of several, by chance."""
        choice = self.random.choice(list(choices))
        self.note(choice)
        return choice

    def note(self, what: Any) -> None:
        """Say what a case is, for when it is found wrong."""
        self.notes.append(getattr(what, "__name__", None) or repr(what)[:80])

    def copy(self, name: str, target: str | None = None) -> Path:
        """A copy of one of the shared files or folders."""
        source, place = self.shared / name, self.folder / (target or name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, place, symlinks=True) if source.is_dir() else shutil.copyfile(source, place)
        return place

    def image(self, name: str | bytes, *, size: tuple[int, int] | None = None, **options: Any) -> Path:
        """Write an image that is like no other."""
        width, height = size or (self.random.randint(16, 40), self.random.randint(16, 40))
        made = Image.frombytes("RGB", (width, height), self.random.randbytes(3 * width * height))
        path = self.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path, **({"format": "PNG"} if path.suffix not in Image.registered_extensions() else {}) | options)
        return path

    def run(self, *words: str | Path, **more: Any) -> Done:
        """A command as its user gives it, in a process of its own; wrong whatever the case if it raises or hangs.

        Args:
            words: after `bitvar`.
            more: `stdin` (bytes), `closed` (numbers of closed streams), `stdout` (a path to lead it to), `cwd`,
                `user` (another user's number), `limit` (seconds), `act` (what to do in place of the command).
        """
        given = tuple(os.fsdecode(word) if isinstance(word, Path | bytes) else word for word in words)
        done = _forked(given, self.folder, **more)
        expect(done.code != HANG, f"it hangs:\n{done}")
        expect(done.code in (0, 1, 2, 3, 4, 130), f"it ends in a traceback:\n{done}")
        found = _NOISE.search(done.err)
        expect(found is None, f"it says what no user can use:\n{done}")
        return done

    def works(self, *words: str | Path, **more: Any) -> Done:
        """Run what must succeed."""
        done = self.run(*words, **more)
        expect(done.code == 0, f"it should work:\n{done}")
        return done

    def refused(self, codes: int | tuple[int, ...], *words: str | Path, aside: str = "", **more: Any) -> Done:
        """Run what must be refused: by the right exit code, with an explanation, and no file but `aside` changed."""
        before = tree(self.folder)
        done = self.run(*words, **more)
        allowed = (codes,) if isinstance(codes, int) else codes
        expect(done.code in allowed, f"it should exit with {codes}:\n{done}")
        require_explained(done)
        self.unchanged(before, done, aside=aside)
        return done

    def either(self, codes: int | tuple[int, ...], *words: str | Path, **more: Any) -> Done | None:
        """Run what may be refused, as `refused`, or work; what it did if it worked."""
        before = tree(self.folder)
        done = self.run(*words, **more)
        if done.code == 0:
            return done
        allowed = (codes,) if isinstance(codes, int) else codes
        expect(done.code in allowed, f"it should exit with 0 or {codes}:\n{done}")
        require_explained(done)
        self.unchanged(before, done)
        return None

    def unchanged(self, before: dict[str, str], done: Done | None = None, *, aside: str = "") -> None:
        """No file may have come, gone or changed."""
        after = tree(self.folder)
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and name != aside
        )
        expect(not changed, f"it changed {changed[:8]}:\n{done}")


def require_explained(done: Done) -> None:
    """Check that an error says what happened, why (unless the first line says it) and what to do, in this order."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    shape = len(lines) >= 2 and lines[-1].startswith("  do:  ") and len(lines[-1]) > 9
    if shape and lines[-2].startswith("  why: "):
        shape = len(lines) >= 3 and len(lines[-2]) > 9
    expect(shape and not lines[-2].startswith("  do:  "), f"its error is not explained:\n{done}")
    expect(len(done.err) < 20_000, f"its error has no end:\n{done}")


def tree(folder: Path) -> dict[str, str]:
    """Everything in a folder: kind, and digest of the content."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            what = f"{stat.S_IFMT(mode):o}"
            if stat.S_ISREG(mode):
                with suppress(PermissionError):
                    what += hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(mode):
                what += str(path.readlink())
            found[str(path.relative_to(folder))] = what
    return found


def pixels(path: Path) -> tuple[tuple[int, int], bytes]:
    """Size and pixels of an image file."""
    with Image.open(path) as image:
        return image.size, image.convert("RGB").tobytes()


def _forked(words: tuple[str, ...], folder: Path, **more: Any) -> Done:
    place = folder.parent / f"{folder.name}.streams"
    place.mkdir(exist_ok=True)
    names = [place / name for name in ("in", "out", "err")]
    names[0].write_bytes(more.get("stdin", b""))
    for name in names[1:]:
        name.write_bytes(b"")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(words, folder, names, **more)
    status, hangs = _wait(child, began, more.get("limit", LIMIT))
    code = HANG if hangs else os.waitstatus_to_exitcode(status)
    out = names[1].read_bytes() if names[1].exists() else b""
    err = names[2].read_bytes().decode("utf-8", "backslashreplace") if names[2].exists() else ""
    return Done(words, code, out, err, time.monotonic() - began)


def _wait(child: int, began: float, limit: float) -> tuple[int, bool]:
    """The child's status, and whether it had to be killed."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, False
        passed = time.monotonic() - began
        if passed > limit and (passed - _queued(child) > limit or passed > PATIENCE):
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True
        time.sleep(0.005)


def _queued(child: int) -> float:
    """Seconds that a process has waited for a processor."""
    try:
        return int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _become(words: tuple[str, ...], folder: Path, names: list[Path], **more: Any) -> None:
    """In the child: take the streams and the folder, and be the command."""
    code = TRACEBACK
    try:
        os.setsid()
        os.chdir(more.get("cwd", folder))
        streams = [os.open(names[0], os.O_RDONLY)]
        streams.append(os.open(more.get("stdout", names[1]), os.O_WRONLY | os.O_CREAT))
        streams.append(os.open(names[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8", errors="surrogateescape")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w")), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        for number in more.get("closed", ()):
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        if "user" in more:
            os.setgroups([])
            os.setgid(more["user"])
            os.setuid(more["user"])
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        sys.argv = ["bitvar", *words]
        code = _ended(more.get("act", _command))
    finally:
        os._exit(code)


def _command() -> None:
    from bitvar.cli.main import main

    main()


def _ended(act: Callable[[], None]) -> int:
    """The exit code that Python would give."""
    code = 0
    try:
        act()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = TRACEBACK
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception:
            if stream is sys.stdout:
                code = TRACEBACK
    return code
