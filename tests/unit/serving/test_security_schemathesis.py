"""Schemathesis against the server: it reads the OpenAPI document and tries what that admits and what it doesn't."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bitvar.serving.http.openapi import openapi_document
from tests.support.serving import CARD
from tests.support.socket_server import SocketServer, socket_server

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")

OPERATIONS = [(method, path) for path, item in openapi_document()["paths"].items() for method in item]


@pytest.fixture(scope="module")
def server() -> Iterator[SocketServer]:
    with socket_server() as running:
        yield running


def document(*, rules: bool) -> dict[str, Any]:
    """The document; without the rules on which fields go together, which no generator can satisfy by chance."""
    made = openapi_document(CARD)
    if not rules:
        made["components"]["schemas"]["ImagesRequest"].pop("allOf")
    return made


def check(server: SocketServer, method: str, path: str, mode: str, *, rules: bool, examples: int) -> None:
    """Let an operation be tried, and hold its answers to the document."""
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    excluded: list[Any] = [positive_data_acceptance]  # a schema can't say which sizes make a ratio, or an image
    operation = schemathesis.openapi.from_dict(document(rules=rules))[path][method]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=GenerationMode[mode]))
    def answers_as_documented(case: Any) -> None:
        case.call_and_validate(base_url=server.url, excluded_checks=excluded)

    answers_as_documented()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_conform(server: SocketServer, method: str, path: str) -> None:
    check(server, method, path, "POSITIVE", rules=False, examples=400 if "generations" in path else 40)


@pytest.mark.slow
def test_what_the_schema_does_not_admit_is_refused(server: SocketServer) -> None:
    check(server, "post", "/v1/images/generations", "NEGATIVE", rules=True, examples=400)
