"""Schemathesis against the server: it reads the OpenAPI document and tries what that admits and what it doesn't."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.socket_server import socket_server

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    with socket_server() as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")

UNBUILT = ("/v1/images/edits", "/v1/images/variations")
"""Routes whose only answer is the documented 501."""


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_conform(case: Any) -> None:
    from schemathesis.checks import CHECKS

    named = {check.__name__: check for check in CHECKS.get_all()}
    excluded = [named["positive_data_acceptance"]]  # a schema can't say which sizes make a ratio, for example
    if case.operation.path in UNBUILT:
        excluded.append(named["not_a_server_error"])
    case.call_and_validate(excluded_checks=excluded)
