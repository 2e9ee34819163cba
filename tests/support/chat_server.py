"""A fake endpoint of chat completions that counts what it is asked, and answers as it is told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """One response: its status, body and headers. A body that is no bytes becomes JSON."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def completion(text: Any, reason: str = "stop") -> Answer:
    """An ordinary answer."""
    return Answer({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]})


@dataclass
class ChatServer:
    """What the server was asked, and what it says next: `script` first, then a fine prompt."""

    url: str
    script: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    prompts: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def answer(self, prompt: str) -> Answer:
        time.sleep(self.seconds)
        return self.script.pop(0) if self.script else completion(f"a fine {prompt}")


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Serve on a free port."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                state.prompts[prompt] += 1
                state.requests.append(body)
                state.headers.append(dict(self.headers))
                state.paths.append(self.path)
            answer = state.answer(prompt)
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:  # the client was killed
                pass

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  (the name of the base class)
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
