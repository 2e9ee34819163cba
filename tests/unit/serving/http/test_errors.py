"""Errors of the API: OpenAI's envelope, bounded whatever the input."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.errors import UsageError
from bitvar.serving.engine.events import Failed
from bitvar.serving.http.errors import ApiError, envelope, from_failure, from_usage, shown


def test_an_envelope_has_the_four_keys_inside_error() -> None:
    error = ApiError(400, "n must be 1.", param="n", code="invalid_value")
    assert envelope(error) == {
        "error": {"message": "n must be 1.", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    }
    assert str(error) == "n must be 1."


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_status_gives_the_type(status: int, kind: str) -> None:
    assert ApiError(status, "No.").type == kind


def test_a_given_type_and_headers_are_kept() -> None:
    error = ApiError(429, "Wait.", error_type="server_error", headers={"Retry-After": "2"})
    assert (error.type, dict(error.headers)) == ("server_error", {"Retry-After": "2"})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UsageError("No prompt."), "No prompt."),
        (UsageError("No prompt.", fix="give one"), "No prompt. Give one."),
        (UsageError("Bad value.", "it is 3", "give another"), "Bad value. It is 3; give another."),
        (UsageError("Bad value.", "top_p is 3"), "Bad value. top_p is 3."),
        (UsageError("The list has 2"), "The list has 2."),
    ],
)
def test_a_usage_error_becomes_sentences(error: UsageError, message: str) -> None:
    api = from_usage(error, param="seed")
    assert (api.status, api.message, api.param, api.code) == (400, message, "seed", "invalid_value")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=800), st.text(max_size=100))
def test_a_body_stays_under_4_kib_and_can_be_encoded(message: str, param: str) -> None:
    error = ApiError(400, message * 3, param=param * 3)
    for ascii_only in (True, False):
        assert len(json.dumps(envelope(error), ensure_ascii=ascii_only).encode("utf-8")) < 4096


@pytest.mark.parametrize("filler", ["\U0001f34e", "\ud800", "\x00", "x", '"'])
def test_the_worst_texts_stay_under_4_kib(filler: str) -> None:
    error = ApiError(400, filler * 10_000, param=filler * 10_000, code="invalid_value")
    assert len(json.dumps(envelope(error)).encode("utf-8")) < 4096


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2", '"2"'),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object"),
        (10**5000, "a number of more than 40 digits"),
        ("x" * 1000, '"' + "x" * 60 + '..."'),
        ("\ud800", '"\\ud800"'),
    ],
    ids=lambda value: ascii(value)[:12] if isinstance(value, str) else type(value).__name__,
)
def test_values_are_shown_short_and_as_json(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_value", 400),
        ("moderation_blocked", 400),
        ("out_of_memory", 503),
        ("worker_died", 503),
        ("timeout", 504),
        ("server_error", 500),
        ("something_new", 500),
    ],
)
def test_a_failed_job_has_a_status(code: str, status: int) -> None:
    error = from_failure(Failed(code, "It failed.", "prompt"))
    assert (error.status, error.code, error.message, error.param) == (status, code, "It failed.", "prompt")


def test_a_job_that_ran_out_of_memory_is_not_tried_again() -> None:
    assert from_failure(Failed("out_of_memory", "Too large.")).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in from_failure(Failed("worker_died", "Gone.")).headers
