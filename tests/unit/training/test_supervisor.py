"""Runs that are kept alive (docs/reliability.md, E): killed, hung, and hopeless ones."""

import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.supervisor import NoProgressError, Plan, RunFailedError, supervise
from tests.support.ranks import ROOT, train_forty_steps
from tests.unit.training.test_distributed import tensors

LOG = logging.getLogger(__name__)
WORKER = "import sys; from tests.support import ranks; ranks.supervised(sys.argv[1])"


def never() -> bool:
    return False


def plan(folder: Path, code: str, *, processes: int = 1, **settings: float) -> Plan:
    command = [sys.executable, "-c", code, str(folder)]
    paths = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    environment = dict(os.environ) | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return Plan(command, processes, folder, environment, **settings)  # type: ignore[arg-type]


FAKE = """
import sys, pathlib
checkpoints = pathlib.Path(sys.argv[1]) / "checkpoints"
step = len(list(checkpoints.glob("step-*"))) + 1
(checkpoints / f"step-{step:08d}").mkdir(parents=True)
sys.exit(0 if step == 6 else 7)
"""


def test_a_run_that_makes_progress_may_fail_often(tmp_path: Path) -> None:
    lines: list[str] = []
    assert supervise(plan(tmp_path, FAKE), stop=never, log=lines.append) == 0
    assert [line.partition(";")[0] for line in lines] == ["process 0 ended with exit code 7"] * 5
    assert lines[-1].endswith("starting again from step 5")


def test_three_attempts_without_progress_are_enough(tmp_path: Path) -> None:
    """E3: it stops, and names the cause."""
    lines: list[str] = []
    with pytest.raises(NoProgressError, match="3 attempts in a row did not get past the first checkpoint") as error:
        supervise(
            plan(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), stop=never, log=lines.append
        )
    assert "process 0 was killed by SIGKILL" in str(error.value)
    assert len(lines) == 2


def test_nothing_is_started_again_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"process 0 ended with exit code 7[\s\S]*--supervise"):
        supervise(plan(tmp_path, FAKE, restart=False), stop=never, log=print)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("code", [2, 3, 143])
def test_what_a_restart_would_not_change_ends_the_run(tmp_path: Path, code: int) -> None:
    assert supervise(plan(tmp_path, f"import sys; sys.exit({code})"), stop=never, log=print) == code


def test_when_one_process_fails_all_begin_anew_at_another_place(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with (folder / "seen").open("a") as file:
    file.write(" ".join(os.environ[n] for n in ("RANK", "WORLD_SIZE", "MASTER_PORT")) + "\\n")
again = (folder / "again").exists()
if os.environ["RANK"] == "1" and not again:
    time.sleep(1)
    (folder / "again").touch()
    sys.exit(9)
time.sleep(0 if again else 60)
"""
    begun = time.monotonic()
    assert supervise(plan(tmp_path, code, processes=2), stop=never, log=lambda line: None) == 0
    assert time.monotonic() - begun < 30, "the process that waits was not ended"
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert sorted((rank, world) for rank, world, _ in seen) == [("0", "2")] * 2 + [("1", "2")] * 2
    assert len({port for _, _, port in seen}) == 2


def test_a_hung_run_is_started_again(tmp_path: Path) -> None:
    """E2, with a process that stops without a word."""
    code = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
pathlib.Path(os.environ["BITVAR_BEAT"]).touch()
if (folder / "again").exists():
    sys.exit(0)
(folder / "again").touch()
time.sleep(100)
"""
    lines: list[str] = []
    assert supervise(plan(tmp_path, code, hang_seconds=2.0), stop=never, log=lines.append) == 0
    assert lines == ["no progress for 2 seconds; starting again from the beginning"]


def test_a_request_to_stop_is_passed_on(tmp_path: Path) -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
time.sleep(100)
"""
    begun = time.monotonic()
    stop = lambda: time.monotonic() - begun > 1  # noqa: E731
    assert supervise(plan(tmp_path, code, processes=2), stop=stop, log=print) == 143


def test_a_process_that_dies_of_being_stopped_is_not_started_again(tmp_path: Path) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda number, frame: os.abort())
time.sleep(100)
"""
    begun = time.monotonic()
    stop = lambda: time.monotonic() - begun > 1  # noqa: E731
    assert supervise(plan(tmp_path, code, processes=2), stop=stop, log=print) == 143


# Real runs


def disturb(folder: Path, act: Callable[[int], None], steps: list[int], ranks: int, seed: int) -> threading.Thread:
    """In a thread: once the run has logged each of some steps, do something to a process of a random rank."""
    rng = random.Random(seed)

    def body() -> None:
        for step in steps:
            while True:
                time.sleep(0.02)
                path = folder / "metrics.jsonl"
                if path.is_file() and f'"step": {step},' in path.read_text():
                    break
            act(int((folder / f"pid-{rng.randrange(ranks)}").read_text()))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def assert_same(folder: Path, other: Path) -> None:
    ours, theirs = tensors(folder, 40), tensors(other, 40)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_killed_twice_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_forty_steps(whole, DistributedContext())
    lines: list[str] = []
    disturb(cut, kill, [8, 23], 1, 0)
    assert supervise(plan(cut, WORKER), stop=never, log=lines.append) == 0
    assert [line.partition(";")[0] for line in lines] == ["process 0 was killed by SIGKILL"] * 2
    assert_same(cut, whole)


@pytest.mark.slow
def test_four_kills_of_random_ranks_change_nothing(tmp_path: Path) -> None:
    """E1: two ranks, four SIGKILLs in 40 steps, five times; and E2: a rank that is stopped, found within 30 s."""
    whole, took = tmp_path / "whole", list[float]()
    assert supervise(plan(whole, WORKER, processes=2), stop=never, log=print) == 0
    for case in range(5):
        folder, lines, begun = tmp_path / str(case), list[str](), time.monotonic()
        disturb(folder, kill, [4, 13, 22, 31], 2, case)
        assert supervise(plan(folder, WORKER, processes=2), stop=never, log=lines.append) == 0
        took.append(time.monotonic() - begun)
        assert len(lines) == 4
        assert_same(folder, whole)
    folder, lines, begun = tmp_path / "stopped", list[str](), time.monotonic()
    disturb(folder, lambda pid: os.kill(pid, signal.SIGSTOP), [12], 2, 0)
    hung = plan(folder, WORKER, processes=2, hang_seconds=10.0)
    assert supervise(hung, stop=never, log=lines.append) == 0
    took.append(time.monotonic() - begun)
    LOG.info("seconds of each run: %s", [round(seconds) for seconds in took])
    assert [line.partition(";")[0] for line in lines] == ["no progress for 10 seconds"]
    assert_same(folder, whole)
