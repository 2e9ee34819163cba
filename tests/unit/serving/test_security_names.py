"""Names from clients are keys, never paths or addresses: no URL is fetched, and no file is opened for a request.

An audit hook can't be removed, so each test runs the server in a process of its own.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import bitvar
from tests.support.serving import running_server

ROOT: Final = Path(__file__).parents[3]

_ADDRESSES: Final = (
    "http://127.0.0.1:9/x.png", "https://example.org/x.png", "http://169.254.169.254/latest/meta-data/", "ftp://example.org/x",
    "file:///etc/passwd", "//example.org/x", "hf://org/model", "data:image/png;base64,AAAA", "http://[::1]:9/", "gopher://x:70/1",
)  # fmt: skip
URL_FIELDS: Final = ("prompt", "model", "user", "lora", "image_url", "url", "image", "mask")
URL_BODIES: Final = [
    *({"prompt": "a", field: {"name": url} if field == "lora" else url} for field in URL_FIELDS for url in _ADDRESSES),
    {"prompt": "a", "lora": [{"name": url} for url in _ADDRESSES[:8]]},
]
"""81 bodies with addresses where a careless server would fetch them."""

_CLIMBS: Final = (
    "../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "....//", "..%252f", "%c0%ae%c0%ae/", "..;/", "/", "%2f",
    "./../", "..%00/", "\u2025/",
)  # fmt: skip
_TARGETS: Final = ("etc/passwd", "app.py", "proc/self/environ", "pyproject.toml")
_PLACES: Final = ("/page/{}", "/v1/models/{}", "/v1/images/{}/content", "/v1/requests/{}", "/{}")
PATHS: Final = [
    place.format(climb * depth + target)
    for place, climb, target, depth in itertools.product(_PLACES, _CLIMBS, _TARGETS, (1, 6))
]
"""600 paths that climb out of wherever they begin."""

NAME_BODIES: Final = [
    {"prompt": "a", field: {"name": name} if field == "lora" else name}
    for field, climb, target in itertools.product(("lora", "model"), _CLIMBS, _TARGETS)
    for name in (climb * 6 + target,)
]

CHILD: Final = """
import asyncio, json, sys
from urllib.parse import unquote
from tests.support.serving import running_app
work = json.load(sys.stdin)
noted = []

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system", "open"):
        noted.append(f"{event} {arguments!r}"[:300])

async def ask(app, method, path, body=None):
    sent, data = [], b"" if body is None else json.dumps(body).encode()
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": headers,
             "query_string": b"", "scheme": "http"}
    body_messages = [{"type": "http.request", "body": data, "more_body": False}]
    async def receive():
        return body_messages.pop() if body_messages else await asyncio.Event().wait()
    async def send(message):
        sent.append(message)
    await app.app(scope, receive, send)
    return sent[0]["status"]

async def main():
    async with running_app() as app:
        for path in ("/", "/page/index.html", "/v1/models", "/metrics", "/openapi.json", "/nothing"):
            await ask(app, "GET", path)
        for body in ({"prompt": "a"}, {"prompt": "a", "response_format": "url"}, {"promt": "a"}, {"prompt": 1}):
            await ask(app, "POST", "/v1/images/generations", body)
        sys.addaudithook(note)
        statuses = [await ask(app, *request) for request in work]
        told = list(noted)
        if sys.argv[1] == "control":
            open("/dev/null").close()
            told = list(noted)
        print(json.dumps([statuses, told]))

asyncio.run(main())
"""


def audited(requests: list[tuple[Any, ...]], mode: str = "watch") -> tuple[list[int], list[str]]:
    """Send requests to the application in a process of its own; return their statuses and what it then opened."""
    paths = os.pathsep.join([str(ROOT), str(Path(bitvar.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mode],
        input=json.dumps(requests),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    statuses, noted = json.loads(done.stdout)
    return statuses, noted


def test_no_address_or_path_from_a_client_is_opened() -> None:
    bodies = [("POST", "/v1/images/generations", body) for body in [*URL_BODIES, *NAME_BODIES]]
    paths = [(method, path) for path in PATHS for method in (("DELETE",) if "/requests/" in path else ("GET",))]
    statuses, noted = audited([*bodies, *paths])
    assert len(URL_BODIES) >= 40 and len(PATHS) >= 300
    assert noted == []
    assert set(statuses) <= {200, 400, 404, 405}
    drawn = [body for (_, _, body), status in zip(bodies, statuses, strict=False) if status == 200]
    assert all(set(body) <= {"prompt", "user"} or body.get("model") == "" for body in drawn)
    assert all(status == 404 for status in statuses[len(bodies) :])


def test_what_is_opened_would_be_seen() -> None:
    assert [event.split()[0] for event in audited([], "control")[1]] == ["open"]


HOOK: Final = """
import os, sys
_file = os.open(os.environ["AUDIT_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def _note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "open"):
        os.write(_file, f"{event} {arguments[0]!r} {arguments[1:]!r}\\n"[:500].encode("utf-8", "replace"))

sys.addaudithook(_note)
"""


@pytest.mark.slow
def test_the_whole_server_opens_no_address_or_path_from_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with the real command: a hook in the front process and in the worker."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    log = tmp_path / "audit.log"
    monkeypatch.setenv("AUDIT_FILE", str(log))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(bitvar.__file__).parents[1])]))
    with running_server() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/v1/images/generations", json={"prompt": "a red circle"})
        client.get("/metrics")
        begin = log.stat().st_size
        assert begin > 0
        for body in [*URL_BODIES, *NAME_BODIES]:
            assert client.post("/v1/images/generations", json=body).status_code in (200, 400, 404)
        for path in PATHS:
            assert client.get(f"{server.url}{path}").status_code in (200, 400, 404, 405)
        time.sleep(0.5)
        noted = log.read_text(encoding="utf-8", errors="replace")[begin:].splitlines()
    package = str(Path(bitvar.__file__).parent)
    assert [line for line in noted if package not in line.split(" (")[0]] == []
