"""`bitvar generate` with a rewriter: what is drawn, what files record, and what is refused."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitvar.bulk import read_ledger
from bitvar.cli import main as cli
from bitvar.pipeline.record import read_record
from tests.support.chat_server import Answer, ChatServer, chat_server, completion
from tests.support.drawing import visible_files
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rough_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> Any:
    """`bitvar generate` with the tiny model, in an empty folder: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bitvar", "generate", *map(str, arguments), "--model", str(model)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def test_the_file_records_both_prompts(run: Any, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITVAR_REWRITER_KEY", "secret")
    rewriter = ("--rewriter-url", server.url, "--rewriter-model", "m")
    code, _, err = run("cat", "--seed", 1, *rewriter, "-o", "cat.png")
    assert code == 0 and "Rewritten by m: a fine cat" in err, err
    assert server.headers[0]["Authorization"] == "Bearer secret"
    record = read_record(Path("cat.png"))
    assert (record.prompt, record.original_prompt, record.rewritten_by) == ("a fine cat", "cat", "m")
    assert run("--from", "cat.png", "-o", "again.png")[0] == 0  # without the endpoint
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()
    assert run("--from", "cat.png", "a dog", "-o", "dog.png")[0] == 0
    assert read_record(Path("dog.png")).original_prompt is None
    assert run("a fine cat", "--seed", 1, "-o", "plain.png")[0] == 0
    assert b"original_prompt" not in Path("plain.png").read_bytes()
    code, _, err = run("--from", "cat.png", *rewriter, "-o", "no.png")
    assert code == 2 and "was rewritten before" in err
    assert run("cat", *rewriter)[0] == 0
    assert sorted(Path().glob("cat-*.png"))  # named by what the user wrote
    assert sum(server.prompts.values()) == 1


def test_a_run_is_drawn_again_from_its_own_records(run: Any, server: ChatServer) -> None:
    Path("list.txt").write_text("cat\ndog\ncat\n")
    rewriter = ("--rewriter-url", server.url, "--rewriter-model", "m")
    command = ("--prompts", "list.txt", "--seed", 1, "-n", 2)
    assert run(*command, *rewriter, "--out", "one")[0] == 0
    assert server.prompts == {"cat": 1, "dog": 1}
    assert [line.settings["original_prompt"] for line in read_ledger(Path("one"))] == ["cat", "cat", "dog", "dog"]
    rows = [json.loads(line) for line in Path("one/rewrites.jsonl").read_text().splitlines()]
    assert rows[1] == {"prompt": "dog", "rewritten": "a fine dog", "model": "m"}
    assert run(*command, "--rewrites", "one/rewrites.jsonl", "--out", "two")[0] == 0
    one, two = visible_files(Path("one")), visible_files(Path("two"))
    assert {**one, "run.json": b""} == {**two, "run.json": b""}
    code, _, err = run(*command, "--out", "one")
    assert code == 2 and "prompt was 'a fine cat', now 'cat'" in err
    Path("list.txt").write_text("cat\ntwo dog\n")
    assert run(*command, *rewriter, "--out", "one")[0] == 0
    assert server.prompts == {"cat": 1, "dog": 1, "two dog": 1}
    assert len(Path("one/rewrites.jsonl").read_text().splitlines()) == 3
    code, _, err = run(*command, "--rewrites", "two/rewrites.jsonl", "--out", "two")
    assert code == 1 and "lacks 1 of 2 prompts" in err


def test_failures_are_explained_and_nothing_is_drawn(run: Any, server: ChatServer) -> None:
    Path("list.txt").write_text("cat\ndog\n")
    rewriter = ("--rewriter-url", server.url, "--rewriter-model", "m")
    server.script = [Answer({"error": {"message": "no such key"}}, 401)] * 2
    code, _, err = run("--prompts", "list.txt", *rewriter, "--out", "out")
    assert code == 1 and "HTTP 401: no such key" in err and "do:  set the key" in err
    server.script = [completion("a dog " * 30), completion("a dog")]
    code, _, err = run("--prompts", "list.txt", *rewriter, "--out", "out")
    assert code == 2 and ": The prompt is too long" in err
    assert not Path("out").exists()
    Path("own.txt").write_text(" \n")
    Path("half.jsonl").write_text('{"prompt": "cat", "rewritten": "a \\ud800", "model": "m"}')
    for options, words in (
        (("--rewriter-url", server.url), "--rewriter-url needs --rewriter-model"),
        (("--rewriter-model", "m", "--rewriter-temperature", 1), "needs --rewriter-url"),
        (("--rewrites", "x", "--rewriter-model", "m"), "--rewrites and --rewriter-model were given"),
        (("--rewrites", "none.jsonl"), "Can't read the rewritten prompts"),
        ((*rewriter, "--rewriter-instruction", "own.txt"), "own.txt is empty"),
        (("--rewriter-url", "nowhere", "--rewriter-model", "m"), "Can't use the rewriter's URL"),
        (("--rewriter-url", "http://[::1/v1", "--rewriter-model", "m"), "its host or its port is wrong"),
        (("--rewriter-url", "ftp://u:PW@h/v1", "--rewriter-model", "m"), "'ftp://h/v1'"),
        (("--rewrites", "half.jsonl"), "half.jsonl.\n  why: line 1: it holds half a character"),
    ):
        code, _, err = run("cat", *options)
        assert code == 2 and words in err and "Rewritten by" not in err, err
