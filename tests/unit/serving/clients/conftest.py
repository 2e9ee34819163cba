"""One server for all clients, which answers to every model name, and the folder that clients are installed into."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import cache_folder
from tests.support.serving import ServerProcess, running_server


@pytest.fixture(scope="package")
def server() -> Iterator[ServerProcess]:
    with running_server("--any-model") as server:
        yield server


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_folder(tmp_path_factory.mktemp("clients"))
