"""Bulk runs that are killed, at every step of keeping an image and at any moment: nothing is redone, nothing lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitvar.bulk import LEDGER, generate_work, read_ledger
from tests.support.drawing import QuickPipeline, item, visible_files

ROOT = Path(__file__).parents[3]
COUNT = 60

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STOPPED_AT = """
import os, sys
from pathlib import Path
from bitvar.bulk import folder as place, generate_work, ledger
from tests.support.drawing import QuickPipeline, item

out, steps = Path(sys.argv[1]), 0

def stopping(function, when):
    def call(*arguments, **options):
        global steps
        steps += 1
        if steps == when:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call

def child(when):
    for module, name in ((place, "give_name"), (place, "flush"), (ledger, "flush"), (ledger.os, "fsync")):
        setattr(module, name, stopping(getattr(module, name), when))
    pipeline = QuickPipeline()
    generate_work(pipeline, [item(i) for i in range(4)], out / f"at-{when}", batch_size=2)
    os._exit(0 if steps else 1)

when, ended = 0, False
while not ended:
    when += 1
    for attempt in (when, 10**9):
        pid = os.fork()
        if pid == 0:
            child(when) if attempt == when else generate_work(
                QuickPipeline(), [item(i) for i in range(4)], out / f"at-{when}", batch_size=3
            ) and os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -9), code
        ended = ended or (attempt == when and code == 0)
print(when - 1)
"""


def test_a_kill_at_any_step_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_AT, str(tmp_path / "runs")], cwd=ROOT, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10  # steps of keeping four images
    generate_work(QuickPipeline(), [item(i) for i in range(4)], tmp_path / "whole", batch_size=2)
    expected = visible_files(tmp_path / "whole")
    for folder in (tmp_path / "runs").iterdir():
        assert visible_files(folder) == expected, folder.name
        assert [line.seed for line in read_ledger(folder)] == list(range(4))
        assert list((folder / ".bulk" / "partial").iterdir()) == []


LISTED = """
import json, sys
from pathlib import Path
from bitvar.bulk import generate_work
from tests.support.drawing import QuickPipeline, item

pipeline = QuickPipeline(seconds=0.01)
generate_work(pipeline, [item(i) for i in range(int(sys.argv[2]))], Path(sys.argv[1]), batch_size=2)
print(json.dumps(pipeline.drawn))
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LISTED, str(folder), str(COUNT)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


@pytest.mark.slow
def test_ten_kills_of_two_processes_end_with_the_same_files(tmp_path: Path) -> None:
    generate_work(QuickPipeline(), [item(i) for i in range(COUNT)], tmp_path / "whole", batch_size=8)
    chance, out, seen = random.Random(0), tmp_path / "killed", 0
    for _ in range(10):
        processes = [start(out) for _ in range(2)]
        begun = len(visible_files(out)) if out.exists() else 0
        while (len(visible_files(out)) if out.exists() else 0) < min(COUNT - 1, begun + 1):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.02)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
        made = visible_files(out)
        assert len(made) >= seen  # what was made stays
        seen = len(made)
    last = [start(out) for _ in range(2)]
    drawn = [json.loads(process.communicate()[0]) for process in last]
    assert sum(map(len, drawn)) <= COUNT - seen
    assert visible_files(out) == visible_files(tmp_path / "whole")
    lines = (out / LEDGER).read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == list(range(COUNT))


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    generate_work(QuickPipeline(), [item(i) for i in range(3)], tmp_path, batch_size=4)
    whole = (tmp_path / LEDGER).read_bytes()
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"file": "0003.png", "sha' + b"x" * 5000)
    assert len(read_ledger(tmp_path)) == 3
    generate_work(QuickPipeline(), [item(i) for i in range(4)], tmp_path, batch_size=4)
    assert (tmp_path / LEDGER).read_bytes().startswith(whole)
    assert len(read_ledger(tmp_path)) == 4
