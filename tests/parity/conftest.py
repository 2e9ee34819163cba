"""Which folder of fixtures to check: `pytest tests/parity --golden DIR`."""

from pathlib import Path

import pytest

from .fixtures import Golden

DEFAULT = Path(__file__).parent.parent / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        golden = Golden(Path(metafunc.config.getoption("--golden") or DEFAULT))
        kind = metafunc.function.kind
        metafunc.parametrize("case", golden.cases(kind), ids=lambda case: case.name)
