"""Secrets stay where they belong: keys, prompts and users are in no log, count or error; weak keys are refused."""

import asyncio
import base64
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr
from typer.testing import CliRunner

from bitvar.cli.main import app as command_line
from bitvar.serving.http.keys import MIN_DIFFERENT, MIN_KEY
from bitvar.serving.http.settings import ServerSettings
from bitvar.serving.logs import JsonLines, outline
from tests.support.serving import running_app, running_server

KEY = "canary-key-5b1e9f0c7a"
PROMPT = "canary-prompt-of-a-red-circle"
USER = "canary-user@example.org"
SECRETS = (KEY, PROMPT, USER, "canary")
SECURE = ServerSettings(api_keys=(SecretStr(KEY),))
HEADERS = {"authorization": f"Bearer {KEY}"}

BODIES: list[dict[str, Any]] = [
    {"prompt": PROMPT, "user": USER},
    {"prompt": PROMPT, "safety_identifier": USER, "stream": True, "partial_images": 2},
    {"prompt": PROMPT, "negative_prompt": PROMPT, "user": USER},
    {"prompt": PROMPT, "size": "1x1", "user": USER},
    {"prompt": [PROMPT], "user": USER},
    {"prompt": PROMPT, "user": USER * 100},
    {"prompt": PROMPT * 2000, "user": USER},
    {"prompt": PROMPT, "user": [USER]},
    {"prompt": PROMPT, "n": 11, "user": USER},
    {"prompt": PROMPT, "unknown": 1, "user": USER},
    {"prompt": PROMPT, "model": "none", "user": USER},
    {"prompt": {"text": PROMPT}, "user": USER},
]


def formatted(records: list[logging.LogRecord]) -> str:
    return "\n".join(JsonLines().format(record) for record in records)


def hits(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def test_logs_counts_and_errors_have_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bitvar")
    caplog.set_level(logging.DEBUG, "uvicorn")

    async def run() -> None:
        async with running_app(settings=SECURE) as app:
            for body in BODIES:
                answer = await app.client.post("/v1/images/generations", json=body, headers=HEADERS)
                if answer.status_code >= 400:
                    assert hits(answer.text) == []
                truncated = json.dumps(body).encode()[:-1]
                broken = await app.client.post(
                    "/v1/images/generations",
                    content=truncated,
                    headers={**HEADERS, "content-type": "application/json"},
                )
                assert (broken.status_code, hits(broken.text)) == (400, [])
            for headers in ({"authorization": f"Bearer {KEY}x"}, {"api-key": f"{KEY}x"}, {"authorization": KEY}):
                assert hits((await app.client.get(f"/v1/models?key={KEY}&prompt={PROMPT}", headers=headers)).text) == []
            for path in ("/metrics", "/openapi.json", "/v1/models", "/version"):
                assert hits((await app.client.get(path, headers=HEADERS)).text) == []

    asyncio.run(run())
    logs = formatted(caplog.records)
    assert logs.count('"request"') > 20
    assert hits(logs) == []
    assert hits(repr(SECURE) + SECURE.model_dump_json()) == []


def test_people_are_logged_by_a_hash(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bitvar")

    async def run() -> None:
        async with running_app() as app:
            for user in (USER, USER, "other"):
                await app.client.post("/v1/images/generations", json={"prompt": PROMPT, "user": user})

    asyncio.run(run())
    first, again, other = [
        record.fields["user"] for record in caplog.records if "user" in vars(record).get("fields", {})
    ]
    assert first == again != other
    assert len(first) == 16


def test_the_message_of_an_unexpected_error_is_not_logged() -> None:
    def fail() -> None:
        try:
            raise KeyError(PROMPT)
        except KeyError as error:
            raise ValueError(f"{PROMPT} is wrong") from error

    with pytest.raises(ValueError, match="wrong") as caught:
        fail()
    error = caught.value
    record = logging.LogRecord("bitvar", logging.ERROR, __file__, 1, "it failed", (), (type(error), error, None))
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "it failed"
    assert line["exception"].endswith("builtins.ValueError")
    assert "KeyError\nand then\n" in line["exception"]
    assert "in fail" in line["exception"]
    assert hits(line["exception"]) == []
    assert outline(OSError("x")) == "builtins.OSError"


@pytest.mark.slow
def test_the_real_command_tells_no_secrets(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# the key of a test\n{KEY}\n")
    with running_server("--api-key-file", str(keys)) as server:
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
            for body in BODIES:
                answer = client.post("/v1/images/generations", json=body)
                assert answer.status_code < 500
                assert answer.status_code < 400 or hits(answer.text) == []
            image = client.post("/v1/images/generations", json=BODIES[0]).json()["data"][0]["b64_json"]
            assert hits(client.get("/metrics").text) == []
        with httpx.Client(base_url=server.url) as stranger:
            assert stranger.get("/v1/models").status_code == 401
    assert any('"request"' in line for line in server.log)
    assert hits("".join(server.log)) == []
    with Image.open(io.BytesIO(base64.b64decode(image))) as opened:
        record = str(opened.info)
    assert KEY not in record and USER not in record  # the prompt is part of the image's record


# Starting


def start(*options: str) -> Any:
    return CliRunner().invoke(command_line, ["serve", "--port", "0", *options])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org"])
def test_others_are_not_served_without_a_key(host: str) -> None:
    result = start("--host", host)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 3
    assert "without a key" in lines[0] and "--api-key-file" in lines[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_this_machine_is_served_without_a_key(host: str) -> None:
    ServerSettings(host=host).check()


WEAK = {
    "": "no key",
    "\n# only a comment\n   # and one that is indented\n": "no key",
    "short\n": f"{MIN_KEY} characters",
    f"{KEY}\nshort\n": f"{MIN_KEY} characters",
    "a" * 40: f"{MIN_DIFFERENT} different",
    "abcabcabcabcabcabc": f"{MIN_DIFFERENT} different",
    "a key with spaces in it": "spaces",
    "a-k\u00e9y-outside-of-ascii": "ASCII",
}


@pytest.mark.parametrize("text", WEAK, ids=ascii)
def test_weak_keys_are_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    result = start("--api-key-file", str(path))
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 3 and WEAK[text] in lines[1]
    given = [line for line in text.splitlines() if line and "#" not in line]
    assert not any(line in result.stderr for line in given)


@pytest.mark.parametrize("data", [None, b"\xff\xfe\x00", b"\x00" * 100])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "keys"
    if data is not None:
        path.write_bytes(data)
    result = start("--api-key-file", str(path))
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3)


@pytest.mark.parametrize(
    "url",
    ["images.example.org", "ftp://images.example.org", "https://", "https://user@example.org", "https://a/b?c", "https://a/#b",
     "javascript:alert(1)", "https://a b", 'https://a"b', "https://a/b//c", "https://a/\nx: y", "https://a:99999999"],
)  # fmt: skip
def test_a_strange_public_url_is_refused(url: str) -> None:
    result = start("--public-url", url)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3)


@pytest.mark.parametrize(
    "url", ["https://images.example.org", "http://127.0.0.1:8080", "https://a/b/c-d", "https://[::1]:5/x"]
)
def test_a_public_url_is_taken(url: str) -> None:
    assert ServerSettings(public_url=url).public_url == url


def test_the_front_process_starts_without_torch() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from bitvar.cli.main import app\n"
        "import bitvar.serving.http.server, bitvar.serving.engine.backend, bitvar.weights.hub\n"
        "done = CliRunner().invoke(app, ['serve', '--host', '0.0.0.0', '--warm-size', '64x64'])\n"
        "assert done.exit_code == 2 and 'without a key' in done.stderr, done.stderr\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("size", ["64", "64x", "x64", "0x64", "-1x64", "64x64x64", "auto", "999999x1"])
def test_a_warm_size_must_be_a_size(size: str) -> None:
    result = start("--warm-size", size)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3)
