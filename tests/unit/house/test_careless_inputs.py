"""Careless and hostile inputs, drawn by kind: no traceback, no hang, nothing wrong in silence, the right exit code.

`BITVAR_CARELESS_SEED` draws others, `BITVAR_CARELESS_KINDS` only some kinds (by their names, separated by commas), and
`BITVAR_CARELESS_FOLDER` keeps the files of what was found wrong.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.careless.kinds import CONTROL, KINDS

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parents[3]
SEED = os.environ.get("BITVAR_CARELESS_SEED", "0")
CHOSEN = [name for name in os.environ.get("BITVAR_CARELESS_KINDS", "").split(",") if name]


def play(folder: Path, counts: dict[str, int], seed: str = SEED) -> list[dict[str, Any]]:
    """Have cases played in a process that pytest's hooks are not in."""
    folder = Path(os.environ.get("BITVAR_CARELESS_FOLDER", folder))
    folder.mkdir(parents=True, exist_ok=True)
    order = {"folder": str(folder), "seed": seed, "processes": min(2, os.cpu_count() or 1), "counts": counts}
    (folder / "order.json").write_text(json.dumps(order))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "tests.support.careless.server", str(folder / "order.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads((folder / "outcomes.json").read_text())
    for kind in counts:
        own = [outcome for outcome in outcomes if outcome["kind"] == kind]
        wrong, seconds = sum(bool(outcome["problem"]) for outcome in own), sum(outcome["seconds"] for outcome in own)
        LOG.info("%-24s %4d cases, %3d wrong, %6.1f s", kind, len(own), wrong, seconds)
    LOG.info("%d cases of %d kinds", len(outcomes), len(counts))
    return outcomes


def require_nothing_wrong(outcomes: list[dict[str, Any]]) -> None:
    wrong = [outcome for outcome in outcomes if outcome["problem"]]
    told = [f"{one['kind']} {one['number']} ({', '.join(one['notes'])}): {one['problem']}" for one in wrong]
    assert not wrong, f"{len(wrong)} of {len(outcomes)} cases went wrong:\n\n" + "\n\n".join(told)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    chosen = {name: kind.count for name, kind in KINDS.items() if not CHOSEN or name in CHOSEN}
    return play(tmp_path_factory.mktemp("careless"), chosen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_careless_and_hostile_people_do_ends_well(outcomes: list[dict[str, Any]], kind: str) -> None:
    if CHOSEN and kind not in CHOSEN:
        pytest.skip("not among those that were chosen")
    own = [outcome for outcome in outcomes if outcome["kind"] == kind]
    assert len(own) == KINDS[kind].count
    require_nothing_wrong(own)


@pytest.mark.slow
def test_there_are_three_hundred_cases() -> None:
    assert sum(kind.count for kind in KINDS.values()) >= 300


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    quick = [name for name, kind in KINDS.items() if kind.quick]
    return play(tmp_path_factory.mktemp("few"), {**dict.fromkeys(quick, 1), CONTROL: 4}, "0")


def test_one_case_of_many_kinds_ends_well(few: list[dict[str, Any]]) -> None:
    own = [outcome for outcome in few if outcome["kind"] != CONTROL]
    assert len(own) >= 12
    require_nothing_wrong(own)


def test_a_fault_is_seen(few: list[dict[str, Any]]) -> None:
    """Without this the cases could be ones that nothing ever fails."""
    own = sorted((outcome["number"], outcome["problem"]) for outcome in few if outcome["kind"] == CONTROL)
    said = [problem.splitlines()[0] for _, problem in own]
    assert said == ["it ends in a traceback:", "it changed ['x.png']:", "its error is not explained:", "it hangs:"]
