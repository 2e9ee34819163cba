"""Where images and reports go: pipes, devices, links, odd names, closed folders, full disks; and streams."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

from PIL import Image

from tests.support.careless.kind import Kind
from tests.support.careless.stage import Done, Stage, expect, require_explained, tree

MODEL = ("--model", "tiny")


def _writers(stage: Stage, target: str) -> tuple[str, ...]:
    suffix = Path(target).suffix
    if suffix == ".bits":
        return ("tokenizer", "encode", "image.png", "-o", target, "--tokenizer", "tiny")
    if suffix == ".jsonl":
        return ("data", "check", "set", "--report", target)
    return ("generate", "a dog", *MODEL, "--seed", "1", "-o", target)


def _ready(stage: Stage) -> None:
    for name in ("tiny", "image.png", "set"):
        stage.copy(name)


def _pipe(stage: Stage, suffix: str) -> None:
    path = stage.folder / f"pipe{suffix}"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    done = stage.works(*_writers(stage, path.name))
    reader.join(5)
    expect(path.is_fifo(), f"the pipe was replaced:\n{done}")
    expect((bool(read) and len(read[0]) > 0) or suffix == ".jsonl", f"nothing came through the pipe:\n{done}")


def _device(stage: Stage, suffix: str) -> None:
    target = stage.folder / f"null{suffix}"
    target.symlink_to("/dev/null")
    done = stage.works(*_writers(stage, target.name))
    expect(Path("/dev/null").is_char_device() and target.is_symlink(), f"the device was replaced:\n{done}")


def _full(stage: Stage, suffix: str) -> None:
    target = stage.folder / f"full{suffix}"
    target.symlink_to("/dev/full")
    if suffix == ".jsonl":  # a report of nothing takes no room
        return
    done = stage.refused(1, *_writers(stage, target.name))
    expect("full" in done.err, f"it does not say that it is full:\n{done}")


def _link(stage: Stage, suffix: str) -> None:
    (stage.folder / "deep").mkdir()
    real, link = stage.folder / "deep" / f"real{suffix}", stage.folder / f"link{suffix}"
    if stage.random.random() < 0.5:
        real.write_bytes(b"old")
    link.symlink_to(stage.pick([real, Path("deep") / real.name]))
    done = stage.works(*_writers(stage, link.name))
    expect(link.is_symlink() and real.read_bytes() != b"old", f"the link was replaced:\n{done}")
    expect(len([*(stage.folder / "deep").iterdir()]) == 1, f"something was left beside it:\n{done}")


def _loop(stage: Stage, suffix: str) -> None:
    (stage.folder / f"one{suffix}").symlink_to(f"two{suffix}")
    (stage.folder / f"two{suffix}").symlink_to(f"one{suffix}")
    stage.refused((1, 2), *_writers(stage, f"one{suffix}"))


def _odd_name(stage: Stage, suffix: str) -> None:
    length = stage.pick([230, 240, 255 - len(suffix), 256])
    name = stage.pick(
        ["x" * length, "\u732b" * (length // 3), "a\nb", "\udcff", "-x", " ", "a;b", "x" * 100 + "/" + "y" * 50]
    )
    done = stage.either((1, 2), *_writers(stage, f"./{name}{suffix}"))
    there = [path for path in stage.folder.rglob(f"*{suffix}") if path.name == Path(f"{name}{suffix}").name]
    expect((done is not None) == bool(there), f"said {done and done.code}, and there is {there}:\n{done}")


def _folder(stage: Stage, suffix: str) -> None:
    place = stage.folder / f"folder{suffix}"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    before = (place / "mine.txt").stat().st_ino
    done = stage.run(*_writers(stage, place.name))
    expect((place / "mine.txt").stat().st_ino == before, f"somebody's folder was replaced:\n{done}")
    expect(done.code in (0, 1, 2), f"another exit code:\n{done}")


def _not_there(stage: Stage, suffix: str) -> None:
    file = stage.folder / "file"
    file.write_text("mine")
    stage.refused((1, 2), *_writers(stage, f"file/x{suffix}"))


def _read_only(stage: Stage, suffix: str) -> None:
    if os.geteuid() != 0:
        return
    place = stage.folder / "closed"
    place.mkdir(mode=0o555)
    for folder in (stage.folder, *stage.folder.parents):  # that another user may get there at all
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            _open_for_all(folder)
    stage.folder.chmod(0o755)
    if not _reachable(stage.folder):
        return
    done = stage.refused((1, 2), *_writers(stage, f"closed/x{suffix}"), user=65_534)
    expect("closed" in done.err, f"it does not name the folder:\n{done}")


def _open_for_all(folder: Path) -> None:
    if folder.name.startswith(("pytest-", "careless")) or folder.parent.name.startswith("pytest-"):
        folder.chmod(folder.stat().st_mode | 0o055)


def _reachable(folder: Path) -> bool:
    """Whether another user may read there, and the Python that runs this."""
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents)) and all(
        place.stat().st_mode & 0o001 for file in (__file__, os.__file__) for place in Path(file).resolve().parents
    )


def _tmpfs(stage: Stage, suffix: str) -> None:
    place = stage.folder / "small"
    place.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return
    try:
        (place / "mine").write_bytes(bytes(8192))
        before = tree(place)
        done = stage.run(*_writers(stage, f"small/x{suffix}"))
        if suffix != ".jsonl":  # an empty report needs no room
            expect(done.code == 1 and "full" in done.err, f"it does not say that the disk is full:\n{done}")
            require_explained(done)
            expect(tree(place) == before, f"something was left on the full disk:\n{done}")
    finally:
        subprocess.run(["umount", str(place)], capture_output=True, check=False)


PLACES = {
    "pipe": _pipe,
    "device": _device,
    "full": _full,
    "link": _link,
    "loop": _loop,
    "name": _odd_name,
    "folder": _folder,
    "file": _not_there,
    "closed": _read_only,
    "tmpfs": _tmpfs,
}


def places(stage: Stage) -> None:
    """Outputs of any sort are written to, or refused; never replaced by what they are not, nothing half-written."""
    _ready(stage)
    place = stage.turn(PLACES)
    suffix = [".png", ".bits", ".jsonl", ".webp", ".jpg"][stage.number // len(PLACES) % 5]
    stage.note(suffix)
    PLACES[place](stage, suffix)


def streams(stage: Stage) -> None:
    """Standard streams that are closed or full: one message, the right exit code, no traceback."""
    _ready(stage)
    calls = {
        "help": ("--help",),
        "version": ("--version",),
        "models": ("models", "list"),
        "check": ("data", "check", "set"),
        "info": ("tokenizer", "info", "image.bits"),
        "generate": ("generate", "a dog", *MODEL, "--json", "-o", "x.png"),
        "image": ("generate", "a dog", *MODEL, "-o", "-"),
        "stats": ("data", "stats", "set", "--json"),
        "doctor": ("doctor",),
    }
    stage.copy("image.bits")
    call = calls[stage.turn(calls)]
    what = stage.pick(["full", "closed", "no input", "no errors", "all closed"])
    if what == "full":
        done = stage.run(*call, stdout="/dev/full")
        expect(done.code == 1, f"it should exit with 1:\n{done}")
        _told(done)
    elif what in ("closed", "all closed"):
        done = stage.run(*call, closed=(1,) if what == "closed" else (0, 1, 2))
        expect(done.code == 1, f"it should exit with 1:\n{done}")
        if what == "closed":
            _told(done)
    else:
        done = stage.run(*call, closed=(0,) if what == "no input" else (2,))
        expect(done.code == 0, f"it should work:\n{done}")
    for name in ("x.png",):
        if (stage.folder / name).exists():
            Image.open(stage.folder / name).verify()


def _told(done: Done) -> None:
    expect("standard output" in done.err, f"it does not name standard output:\n{done}")
    require_explained(done)


def inputs(stage: Stage) -> None:
    """Prompts from a standard input that is empty, closed, binary or long: refused."""
    stage.copy("tiny")
    what = stage.turn(["empty", "closed", "binary", "blank", "lone"])
    data = {"binary": stage.random.randbytes(300), "blank": b"\n \n", "lone": b"\xed\xa0\x80\n"}.get(what, b"")
    closed = (0,) if what == "closed" else ()
    stage.refused((1, 2), "generate", *MODEL, "--prompts", "-", "-o", "out/", stdin=data, closed=closed)


KINDS = {
    "places": Kind(30, places, quick=True),
    "streams": Kind(18, streams),
    "inputs": Kind(5, inputs),
}
