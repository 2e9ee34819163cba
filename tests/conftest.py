"""Options of the test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, help="folder of parity fixtures (default: tests/golden)")
    parser.addoption("--device", default="cpu", help="where the parity tests compute, such as cuda")
