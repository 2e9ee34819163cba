"""Hostile files, each offered where a user could be led to offer it: none runs, all are refused, in little memory.

Every case is offered in a process of its own, with a limit on memory and time, and with an audit hook that notes what
executes, connects, unpickles or writes. Cases named "sound" are the same files without the attack.
"""

import contextlib
import functools
import gc
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.open import RefusedError
from tests.support.hostile import (
    CASES,
    CONTROLS,
    CPU_SECONDS,
    MAX_GROWTH,
    ROOT,
    SOUND,
    make_sound,
    plain,
    system,
)

LOG = logging.getLogger(__name__)

# One process makes them, another forks for each and offers it


class Outcome(NamedTuple):
    """What came of a case: the error's type and text ("" for none), what was noted, bytes, seconds."""

    error: str
    text: str
    noted: list[str]
    growth: int
    seconds: float
    changed: list[str]


def tree(*folders: Path) -> dict[str, tuple[int, int]]:
    """Everything in folders; of files, size and time."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound files, and one outside that nobody may touch."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "outside").mkdir()
    save_file({"a": torch.zeros(1)}, root / "outside" / "model.safetensors")
    make_sound(root / "sound")
    return root


@pytest.fixture(scope="module")
def outcomes(root: Path) -> dict[str, Outcome]:
    offered = {}
    for number, (name, case) in enumerate(CASES.items()):
        given = root / f"case-{number}" / "given"
        given.mkdir(parents=True)
        offered[name] = str(case.make(given))
    for number, (name, (kind, _)) in enumerate(SOUND.items()):
        given = root / f"sound-{number}" / "given"
        given.mkdir(parents=True)
        source, target = root / "sound" / name, given / kind
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        offered[f"sound: {name}"] = str(target)
    for name in CONTROLS:
        given = root / name.replace(": ", "-") / "given"
        given.mkdir(parents=True)
        offered[name] = str(plain(system(2))(given))
    (root / "offered.json").write_text(json.dumps(offered))
    code = "import sys; from tests.unit.house.test_hostile import serve; serve(sys.argv[1])"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(root)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: Outcome(*values) for name, values in json.loads((root / "outcomes.json").read_text()).items()}
    hostile = [found[name] for name in CASES]
    slowest, largest = max(o.seconds for o in hostile), max(o.growth for o in hostile) / 1e6
    LOG.info("%d hostile files: at most %.2f s and %.0f MB each", len(hostile), slowest, largest)
    return found


def serve(root: str) -> None:
    """Offer every case in a fork of this process."""
    import peft  # noqa: F401  (so that no case pays for it)
    import transformers.models.bert  # noqa: F401

    folder = Path(root)
    offers = {name: case.offer for name, case in CASES.items()}
    offers |= {f"sound: {name}": offer for name, (_, offer) in SOUND.items()}
    offers |= CONTROLS
    gc.freeze()
    found = {}
    for name, path in json.loads((folder / "offered.json").read_text()).items():
        watched = folder / Path(path).relative_to(folder).parts[0], folder / "outside"
        before = tree(*watched)
        report = _forked(lambda name=name, path=path: offers[name](Path(path)), folder)
        after = tree(*watched)
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        found[name] = (*report, changed)
    (folder / "outcomes.json").write_text(json.dumps(found))


def _forked(act: Callable[[], object], root: Path) -> tuple[str, str, list[str], int, float]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w", encoding="utf-8") as file:
            json.dump(_measured(act, root), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        text = file.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}", "", [], 0, 0.0
    error, message, noted, growth, seconds = json.loads(text)
    return error, message, noted, growth, seconds


def _measured(act: Callable[[], object], root: Path) -> tuple[str, str, list[str], int, float]:
    noted: list[str] = []
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    signal.alarm(60)  # for one that sleeps
    sys.addaudithook(functools.partial(_note, noted, f"{root}/"))
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    error, text = "", ""
    try:
        act()
    except BaseException as raised:  # whatever it is, the test wants to know
        error = type(raised).__name__
        text = str(raised) if isinstance(raised, (UsageError, WeightsError, RefusedError)) else _last_lines(raised)
    seconds = time.perf_counter() - began
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    return error, text[:5000].encode("ascii", "backslashreplace").decode(), list(noted), growth, seconds


def _last_lines(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-1500:]


def _note(noted: list[str], root: str, event: str, arguments: tuple[Any, ...]) -> None:
    forbidden = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
    writes = event == "open" and isinstance(arguments[0], str) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    outside = writes and arguments[0] != os.devnull and not os.path.realpath(arguments[0]).startswith(root)
    if event.startswith(forbidden) or outside:
        noted.append(f"{event} {arguments}"[:300])


@pytest.mark.parametrize("name", list(CASES))
def test_nothing_hostile_runs_or_passes(outcomes: dict[str, Outcome], name: str) -> None:
    outcome, expected = outcomes[name], CASES[name].error
    assert outcome.noted == []
    assert [path for path in outcome.changed if not path.endswith(".partial")] == []  # half-written, and our own
    assert outcome.error == (expected.__name__ if expected else ""), outcome.text
    assert outcome.growth < MAX_GROWTH
    if expected in (UsageError, WeightsError):
        what, *_, todo = outcome.text.splitlines()
        assert todo.startswith("  do:  ")
        assert what.startswith("Unknown ") or "\n  why: " in outcome.text


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pickle])
def test_each_pickle_would_run_where_pickles_are_believed(root: Path, name: str) -> None:
    """Without this the canary could be one that never sings."""
    case, given = CASES[name], root / f"control-{list(CASES).index(name)}" / "given"
    assert case.pickle is not None
    given.mkdir(parents=True)
    case.make(given)
    path = given / case.pickle
    with contextlib.suppress(Exception), path.open("rb") as file:
        np.load(path, allow_pickle=True) if path.suffix == ".npy" else torch.load(file, weights_only=False)
    assert (given.parent / "canary").exists()


def test_harm_would_be_seen(outcomes: dict[str, Outcome]) -> None:
    believed, sprawling = (outcomes[name] for name in CONTROLS)
    assert [note.split()[0] for note in believed.noted] == ["pickle.find_class", "os.system"]
    assert [Path(path).name for path in believed.changed] == ["canary"]
    assert [note.split()[0] for note in sprawling.noted] == ["open"]
    assert [Path(path).name for path in sprawling.changed] == ["written"]
    assert sprawling.growth >= MAX_GROWTH


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_read(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[f"sound: {name}"]
    assert (outcome.error, outcome.noted) == ("", []), outcome.text
    assert all("/given/" in path for path in outcome.changed)
