"""Options of the test suite, and how it is spread over processors."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
"""PyTorch, which isn't imported yet, and the processes that tests start use one thread each: the models are too small
to gain from more, and several workers share the processors."""

HERE = Path(__file__).parent
MAX_WORKERS = 4
"""Some tests start several processes of their own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, help="folder of parity fixtures (default: tests/golden)")
    parser.addoption("--device", default="cpu", help="where the parity tests compute, such as cuda")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of a few thousand parameters. Copy it to change it: everyone reads the same one."""
    from tests.support.tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline(folder).save_pretrained(folder / "model")
    return folder / "model"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the default tier over workers, file by file, where pytest-xdist is installed and no -n says otherwise.

    A part of the suite runs in one process, which starts sooner and can be debugged.
    """
    if hasattr(config, "workerinput"):  # this is a worker
        return
    given = config.option
    whole = {HERE, HERE / "unit"} & {Path(argument).resolve() for argument in config.args}
    chosen = given.keyword or given.markexpr != "not slow" or given.collectonly or given.usepdb
    if whole and not chosen and given.capture != "no" and getattr(given, "numprocesses", 0) is None:
        given.numprocesses = "auto"
        given.dist = "loadfile"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MAX_WORKERS)
