"""The cache of answers and the file of recorded ones: no prompt is asked twice, whoever asks, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bitvar.errors import UsageError
from bitvar.rewriting import (
    EndpointRewriter,
    RecordedRewriter,
    RewriteCache,
    RewriteError,
    Rewritten,
    read_rewrites,
    rewrite_prompts,
    write_rewrites,
)
from tests.support.chat_server import chat_server

ROOT = Path(__file__).parents[3]
PROMPTS = [f"prompt {i}" for i in range(12)]

A_IS_B = '{"prompt": "a", "rewritten": "b", "model": "m"}'

ASK = """
import sys
from pathlib import Path
from bitvar.rewriting import EndpointRewriter, RewriteCache, rewrite_prompts
url, folder = sys.argv[1:]
prompts = [f"prompt {i}" for i in range(12)]
done = rewrite_prompts(prompts, EndpointRewriter(url, "m"), RewriteCache(Path(folder)), threads=2)
assert [one.prompt for one in done.values()] == [f"a fine {prompt}" for prompt in prompts]
"""


def start(url: str, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", ASK, url, str(folder)], cwd=ROOT, env=environment)


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with chat_server() as server:
        rewriter = EndpointRewriter(server.url, "m")
        done = rewrite_prompts([*PROMPTS, *PROMPTS], rewriter, RewriteCache(tmp_path), threads=4)
        again = rewrite_prompts(PROMPTS[::-1], rewriter, RewriteCache(tmp_path))
        assert server.prompts == dict.fromkeys(PROMPTS, 1)
    assert done == again
    assert list(done) == PROMPTS
    assert done["prompt 3"] == Rewritten("prompt 3", "a fine prompt 3", "m")
    assert list(tmp_path.rglob("*.lock")) == []


def test_two_processes_ask_once(tmp_path: Path) -> None:
    with chat_server() as server:
        server.seconds = 0.02
        processes = [start(server.url, tmp_path) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0]
        assert server.prompts == dict.fromkeys(PROMPTS, 1)


def test_a_killed_process_loses_no_answer(tmp_path: Path) -> None:
    with chat_server() as server:
        server.seconds = 0.05
        process = start(server.url, tmp_path)
        while len(list(tmp_path.rglob("*.json"))) < 3:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = [json.loads(path.read_text())["prompt"] for path in tmp_path.rglob("[0-9a-f]*.json")]
        assert start(server.url, tmp_path).wait() == 0
        assert {server.prompts[prompt] for prompt in kept} == {1}
        assert set(server.prompts) == set(PROMPTS)
        assert max(server.prompts.values()) <= 2  # those whose answer was on its way


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    cache, answers = RewriteCache(tmp_path), iter(["fine"])

    def fail() -> str:
        raise RewriteError("It failed.", "so", "try")

    with pytest.raises(RewriteError):
        cache.answer("a", {}, fail)
    assert cache.answer("a", {}, lambda: next(answers)) == "fine"
    assert cache.answer("a", {}, lambda: next(answers)) == "fine"


def test_threads_that_ask_for_one_prompt_wait_for_one_answer(tmp_path: Path) -> None:
    asked, cache = list[int](), RewriteCache(tmp_path)

    def ask() -> str:
        asked.append(1)
        time.sleep(0.05)
        return "fine"

    threads = [threading.Thread(target=cache.answer, args=("a", {}, ask)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_a_damaged_answer_is_named(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path)
    cache.answer("a", {}, lambda: "fine")
    (path,) = tmp_path.rglob("*.json")
    path.write_text("{")
    with pytest.raises(UsageError, match="delete that file to ask again"):
        cache.answer("a", {}, lambda: "other")


def test_recorded_rewrites_need_no_model(tmp_path: Path) -> None:
    rewrites = [Rewritten("a cat", 'a grey cat\nwith "x"', "m"), Rewritten("ein Hund", "a dog", "n")]
    path = tmp_path / "rewrites.jsonl"
    write_rewrites(path, rewrites)
    recorded = RecordedRewriter(read_rewrites(path), str(path))
    assert list(recorded.look_up(["ein Hund", "a cat", "a cat"]).values()) == rewrites[::-1]
    with pytest.raises(RewriteError, match="lacks 1 of 2 prompts"):
        recorded.look_up(["a cat", "a cow"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "line 1"),
        ('{"prompt": "a"}', "line 1"),
        ('{"prompt": "a", "rewritten": " ", "model": "m"}', "is empty"),
        (
            '{"prompt": "a", "rewritten": "b", "model": "m"}\n\n{"prompt": "a", "rewritten": "c", "model": "m"}',
            "line 3",
        ),
        ("nothing", "line 1"),
    ],
    ids=["list", "missing", "empty", "twice", "text"],
)
def test_bad_files_of_rewrites(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_rewrites(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="Can't read"):
        read_rewrites(tmp_path / "none.jsonl")
