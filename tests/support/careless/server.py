"""One process that makes the sound files, and forks for each case: `python -m tests.support.careless.server ORDER`.

The order is a JSON file: `folder` to work in, `seed`, `processes`, and `counts` of cases by kind. What came of them is
written to `outcomes.json` in the folder. The process itself computes nothing, so that its forks may.
"""

import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.careless.stage import Stage, WrongError

CASE_SECONDS = 150


def serve(order: Path) -> None:
    """Play every case that is asked for."""
    from tests.support.careless import kinds

    given = json.loads(order.read_text())
    folder, shared = Path(given["folder"]), Path(given["folder"]) / "shared"
    _preload()
    _in_a_fork(lambda: kinds.make_shared(shared), folder / "shared.txt")
    problem = (folder / "shared.txt").read_text()
    if problem:
        sys.exit(problem)
    gc.freeze()
    waiting = [(kind, number) for kind, count in given["counts"].items() for number in range(count)]
    running: dict[int, tuple[str, int]] = {}
    outcomes: list[dict[str, Any]] = []
    while waiting or running:
        while waiting and len(running) < given["processes"]:
            kind, number = waiting.pop(0)
            running[_begin(folder, shared, given["seed"], kind, number)] = kind, number
        child, _ = os.wait()
        kind, number = running.pop(child)
        outcomes.append(_outcome(folder, kind, number))
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


def _begin(folder: Path, shared: Path, seed: str, kind: str, number: int) -> int:
    from tests.support.careless.kinds import CONTROLS, KINDS

    place, report = folder / f"{kind}-{number}", folder / f"{kind}-{number}.json"

    def play() -> None:
        began, problem = time.perf_counter(), ""
        place.mkdir()
        stage = Stage(place, shared, f"{seed}/{kind}/{number}", number)
        try:
            (KINDS | CONTROLS)[kind].play(stage)
        except WrongError as wrong:
            problem = str(wrong)
        except BaseException:
            problem = f"the case itself failed: {traceback.format_exc()}"
        seconds = time.perf_counter() - began
        found = {"kind": kind, "number": number, "notes": stage.notes, "problem": problem, "seconds": seconds}
        report.write_text(json.dumps(found).encode("ascii", "backslashreplace").decode())

    return _fork(play)


def _outcome(folder: Path, kind: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads((folder / f"{kind}-{number}.json").read_text())
    except (OSError, ValueError):
        found = {"kind": kind, "number": number, "notes": [], "problem": "the case died", "seconds": 0.0}
    if not found["problem"]:
        for place in (folder / f"{kind}-{number}", folder / f"{kind}-{number}.streams"):
            with suppress(OSError):
                shutil.rmtree(place)
    return found


def _in_a_fork(act: Any, report: Path) -> None:
    def play() -> None:
        try:
            act()
            report.write_text("")
        except BaseException:
            report.write_text(traceback.format_exc())

    os.waitpid(_fork(play), 0)


def _fork(act: Any) -> int:
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(CASE_SECONDS)
            act()
        finally:
            os._exit(0)
    return child


def _preload() -> None:
    """What commands import when they run, so that no case pays for it."""
    import peft  # noqa: F401
    import PIL.Image
    import transformers.models.bert  # noqa: F401

    import bitvar.cli.generate
    import bitvar.cli.lora
    import bitvar.cli.main
    import bitvar.codec
    import bitvar.data.importing
    import bitvar.evaluation.reconstruction.evaluate
    import bitvar.pipeline
    import bitvar.training.assemble
    import bitvar.training.checks
    import bitvar.training.engine.loop  # noqa: F401

    PIL.Image.init()


if __name__ == "__main__":
    faulthandler.enable()
    serve(Path(sys.argv[1]))
