"""The endpoint rewriter: what it sends, what it accepts, when it tries again, and what it says when it gives up."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitvar.errors import UsageError
from bitvar.rewriting import INSTRUCTION, EndpointRewriter, RewriteCache, RewriteError, rewrite_prompts
from bitvar.rewriting.instruction import prompt_in_answer
from tests.support.chat_server import Answer, ChatServer, chat_server, completion


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def rewriter(server: ChatServer, **changes: Any) -> EndpointRewriter:
    return EndpointRewriter(**{"url": server.url, "model": "some-model", "sleep": lambda seconds: None, **changes})


def test_the_request_is_a_chat_completion(server: ChatServer) -> None:
    assert rewriter(server, key="secret", temperature=0.5).rewrite("a cat") == "a fine a cat"
    (request,) = server.requests
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert (request["model"], request["temperature"]) == ("some-model", 0.5)
    assert request["messages"] == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": "a cat"},
    ]
    rewriter(server, url=f"{server.url}/chat/completions/").rewrite("a cat")
    assert "Authorization" not in server.headers[1]
    assert server.paths == ["/v1/chat/completions"] * 2


def test_the_key_is_in_no_text(server: ChatServer) -> None:
    made = rewriter(server, key="secret-key")
    server.script = [Answer({"error": {"message": "no"}}, 401)]
    with pytest.raises(RewriteError) as caught:
        made.rewrite("a cat")
    assert "secret-key" not in repr(made) + str(made.settings) + str(caught.value)


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ("  a grey\n cat ", "a grey cat"),
        ('"a grey cat"', "a grey cat"),
        ("\u201ca cat\u201d", "a cat"),
        ('"STOP" on a sign that says "GO"', '"STOP" on a sign that says "GO"'),
        ("<think>\nhm\n</think>\n\na cat", "a cat"),
        ("un chat gris", "un chat gris"),
    ],
    ids=["lines", "quotes", "curly", "inner", "thought", "plain"],
)
def test_the_prompt_in_an_answer(answer: str, prompt: str) -> None:
    assert prompt_in_answer(answer) == prompt


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (completion(""), "the answer is empty"),
        (completion(' "" '), "the answer is empty"),
        (completion("<think> hm"), "thoughts that never end"),
        (completion("x" * 5000), "5,000 characters"),
        (completion(None), "has no text"),
        (completion("a cat that", "length"), "is cut off"),
        (Answer({"choices": []}), "no chat completion"),
        (Answer({"error": "odd"}), "no chat completion"),
        (Answer([1]), "no chat completion"),
        (Answer(b"<html>"), "no chat completion"),
        (Answer(b"\xff\xfe"), "no chat completion"),
        (Answer(b"[" * 100_000), "no chat completion"),
        (Answer(b"x" * (1 << 20) + b"y"), "longer than a megabyte"),
    ],
    ids=["empty", "quotes", "thought", "long", "null", "cut", "none", "error", "list", "html", "bytes", "deep", "huge"],
)
def test_answers_that_can_not_be_used(server: ChatServer, answer: Answer, words: str) -> None:
    server.script = [answer]
    with pytest.raises(RewriteError, match=words) as caught:
        rewriter(server).rewrite("a cat")
    assert "why:" in str(caught.value) and "do:" in str(caught.value)
    assert sum(server.prompts.values()) == 1  # asking again would give the same


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(server: ChatServer, status: int) -> None:
    pauses = list[float]()
    server.script = [Answer({"error": {"message": "slow down"}}, status)] * 2 + [
        Answer(b"", status, {"Retry-After": "7"}),
        Answer(b"", status, {"Retry-After": "Mon, 30 Nov 2026 00:00:00 GMT"}),
    ]
    assert rewriter(server, sleep=pauses.append).rewrite("a cat") == "a fine a cat"
    assert pauses == [1, 2, 7, 8]


def test_an_endpoint_that_stays_busy_is_given_up(server: ChatServer) -> None:
    server.script = [Answer({"error": {"message": "too many requests"}}, 429, {"Retry-After": "9999"})] * 5
    pauses = list[float]()
    with pytest.raises(RewriteError, match="HTTP 429: too many requests, 5 times in a row"):
        rewriter(server, sleep=pauses.append).rewrite("a cat")
    assert pauses == [60] * 4


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "bad temperature"), (401, "set the key"), (403, "set a key"), (404, "ends in /v1"), (307, "check the URL")],
)
def test_refusals_are_not_tried_again(server: ChatServer, status: int, words: str) -> None:
    server.script = [Answer({"error": {"message": "bad temperature"}}, status, {"Location": server.url + "/elsewhere"})]
    with pytest.raises(RewriteError, match=words):
        rewriter(server, key="secret").rewrite("a cat")
    assert server.paths == ["/v1/chat/completions"]  # and the key goes nowhere else


def test_an_endpoint_that_is_slow_or_gone(server: ChatServer) -> None:
    server.seconds = 0.3
    with pytest.raises(RewriteError, match=r"no answer within 0\.05 s, 2 times in a row"):
        rewriter(server, timeout=0.05, tries=2).rewrite("a cat")
    gone = EndpointRewriter("http://127.0.0.1:9/v1", "m", tries=2, sleep=lambda seconds: None)
    with pytest.raises(RewriteError, match="doesn't answer"):
        gone.rewrite("a cat")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://a/v1", "http://u:p@a/v1", "http:///v1", "http://a/v1?k=1"]
)
def test_urls_that_can_not_be_used(url: str) -> None:
    with pytest.raises(UsageError, match="rewriter's URL"):
        EndpointRewriter(url, "m")
    with pytest.raises(UsageError, match="is no key"):
        EndpointRewriter("http://a/v1", "m", key="a\nb")


def test_other_settings_are_other_answers(server: ChatServer, tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    for changes in ({}, {"temperature": 1.0}, {"instruction": "Shorten it."}, {"key": "another"}, {}):
        rewrite_prompts(["a cat"], rewriter(server, **changes), cache)
    assert server.prompts == {"a cat": 3}
    files = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert {file["settings"]["temperature"] for file in files} == {0.0, 1.0}


def test_one_failure_keeps_the_others(server: ChatServer, tmp_path: Path) -> None:
    server.script = [completion("")]
    prompts = [f"prompt {i}" for i in range(4)]
    with pytest.raises(RewriteError, match=r"1 of 4 prompts(.|\n)*the first: the answer is empty"):
        rewrite_prompts(prompts, rewriter(server), RewriteCache(tmp_path))
    assert len(rewrite_prompts(prompts, rewriter(server), RewriteCache(tmp_path))) == 4
    assert server.prompts == {"prompt 0": 2, "prompt 1": 1, "prompt 2": 1, "prompt 3": 1}
    server.script = [Answer(b"", 401)] * 9
    with pytest.raises(RewriteError, match="HTTP 401"):
        rewrite_prompts(["a", "b", "c", "d"], rewriter(server), RewriteCache(tmp_path))
    assert server.prompts["d"] == 0
