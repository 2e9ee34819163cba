"""A hub on this machine with the few routes that `huggingface_hub` needs to list, download and publish models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeRepository:
    """A repository: its commits, each with all its files, and the commit of each branch."""

    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit on a branch and return its id."""
        text = f"{len(self.commits)}{branch}{sorted(files)}"
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


@dataclass
class FakeHub:
    """The state of the server.

    Attributes:
        endpoint: Address.
        repositories: Repositories by name.
        token: Token that writing takes.
        cut: Bytes of a download after which the connection breaks and downloads stop working; None for never.
        served: Bytes sent of each file.
    """

    endpoint: str = ""
    repositories: dict[str, FakeRepository] = field(default_factory=dict)
    token: str = "hf_fake"
    cut: int | None = None
    broken: bool = False
    served: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def publish(self, name: str, folder: Path) -> str:
        """Put the files of a folder into a repository and return the commit."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.repositories.setdefault(name, FakeRepository()).commit(files)

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Find the commit of a revision and its files."""
        repository = self.repositories[name]
        commit = repository.branches.get(revision, revision)
        return None if commit not in repository.commits else (commit, repository.commits[commit])


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a hub on a free port of this machine."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002  (the name in the standard library)
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_PUT(self) -> None:
        self.hub.uploads[urlsplit(self.path).path.rsplit("/", 1)[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            repository = self.hub.repositories[match[1]]
            repository.branches[match[2]] = repository.branches["main"]
            self._answer(200, {})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(match[1], match[2], body)
        else:
            self._answer(404, {"error": path})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in self.hub.repositories:
            self._answer(409, {"url": f"{self.hub.endpoint}/{name}", "error": "exists"})
            return
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.hub.repositories[name] = FakeRepository(private=bool(private))
        self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for entry in wanted["objects"]:
            known = entry["oid"] in self.hub.uploads
            target = {"upload": {"href": f"{self.hub.endpoint}/upload/{entry['oid']}", "header": {}}}
            objects.append({**entry, "authenticated": True, **({} if known else {"actions": target})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, branch: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.branches[branch]])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, branch)
        self._answer(200, {"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}"})

    def _read(self) -> None:
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?", path)
        if match is None or match[1] not in self.hub.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        name, verb, revision, rest = match[1], match[2], match[3] or "main", match[4] or ""
        found = self.hub.find(name, revision)
        if found is None:
            self._answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return
        commit, files = found
        if verb == "resolve":
            self._file(commit, files, rest)
        elif verb == "tree":
            self._answer(
                200,
                [{"type": "file", "path": file, "size": len(data), "oid": _oid(data)} for file, data in files.items()],
            )
        else:
            siblings = [{"rfilename": file, "size": len(data), "blobId": _oid(data)} for file, data in files.items()]
            private = self.hub.repositories[name].private
            self._answer(200, {"id": name, "sha": commit, "private": private, "siblings": siblings, "tags": []})

    def _file(self, commit: str, files: dict[str, bytes], name: str) -> None:
        if self.hub.broken:
            self._answer(503, {"error": "down"})
            return
        if name not in files:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data, start = files[name], 0
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start = int(wanted[1])
        rest = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_oid(data)}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.cut
        if cut is not None and len(rest) > cut:
            self.hub.broken, rest, self.close_connection = True, rest[:cut], True
        self.hub.served[name] = self.hub.served.get(name, 0) + len(rest)
        self.wfile.write(rest)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob " + data).hexdigest()
