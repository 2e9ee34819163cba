"""A stand-in for the server, whose scales and failures a test controls. It needs no model and no torch."""

import base64
import io
import json
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import bitvar
from bitvar.pipeline.image_files import encode_image
from bitvar.pipeline.record import ImageRecord

PAGE = Path(bitvar.__file__).parent / "serving" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))
CARD: dict[str, Any] = {
    "name": "icons",
    "digest": "icons@4e5261f93e2f",
    "created": 1,
    "sizes": [{"width": 64, "height": 64, "grids": GRIDS, "image_bytes": 0}],
    "defaults": {"guidance_scale": 1.0, "temperature": 0.25, "top_k": 0, "top_p": 0.0},
    "max_text_tokens": 64,
    "adapters": [],
    "alpha": False,
    "bits": 16,
    "device": "cpu",
    "dtype": "float32",
    "memory_budget": 1 << 40,
    "examples": ["a red apple, 3D emoji", "a cat on a blue background", "three pears"],
}


@dataclass
class Answer:
    """An answer that replaces the next generation.

    Attributes:
        status: HTTP status.
        error: The error object of the body.
        headers: More headers.
    """

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


def drawn(body: Mapping[str, Any], *, alpha: bool = False) -> list[bytes]:
    """Draw an image of plain blocks for each scale, the last with its record inside.

    Args:
        body: The request.
        alpha: Whether to leave the margin transparent, unless the request wants it opaque.
    """
    background, kind = body.get("background", "auto"), body.get("output_format", "png").upper()
    color = (body["seed"] * 97 % 256, len(body["prompt"]) * 53 % 256, int(body["guidance_scale"] * 40) % 256)
    images = []
    for index, (rows, columns) in enumerate(GRIDS):
        blocks = Image.new("RGB", (columns, rows), color)
        for x in range(0, columns, 2):
            for y in range(0, rows, 2):
                blocks.putpixel((x, y), (255 - 50 * index, 60 * index, 128))
        image = blocks.resize((64, 64), Image.Resampling.NEAREST)
        if alpha and background != "opaque":
            mask = Image.new("L", image.size)
            ImageDraw.Draw(mask).ellipse((12, 12, 52, 52), fill=255)
            image.putalpha(mask)
        images.append(image)
    record = ImageRecord.of(
        {
            "prompt": body["prompt"],
            "negative_prompt": body.get("negative_prompt"),
            "seed": body["seed"],
            "width": 64,
            "height": 64,
            "guidance_scale": float(body["guidance_scale"]),
            "temperature": float(body["temperature"]),
            "top_k": 0,
            "top_p": 0.0,
            "model": CARD["digest"],
            "background": background,
        }
    )
    previews = []
    for image in images[:-1]:
        file = io.BytesIO()
        image.save(file, format=kind)
        previews.append(file.getvalue())
    return [*previews, encode_image(images[-1], record, kind)]


class StubServer:
    """The page and a pretended API on a free port.

    Attributes:
        gate: Called with the body and the index of a scale before the scale is sent; it may wait.
        draw: Makes the images of a body.
        answers: Refusals for the next generations, in order.
        bodies: The requests so far.
        cancelled: Ids that a client cancelled.
        status: What /readyz says.
        key: API key that every request needs; None for none.
        card: The model's card.
        queue: Places in the queue that the next generations say before their first scale.
        broken: Index of the scale at which the connection is cut; None for never.
    """

    def __init__(self, port: int = 0) -> None:
        self.gate: Callable[[Mapping[str, Any], int], object] = lambda body, scale: None
        self.draw: Callable[[Mapping[str, Any]], list[bytes]] = drawn
        self.answers: list[Answer] = []
        self.bodies: list[dict[str, Any]] = []
        self.cancelled: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.status = "ready"
        self.key: str | None = None
        self.card = CARD
        self.queue: list[int] = []
        self.broken: int | None = None
        self._open(port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def _open(self, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def reopen(self) -> None:
        """Listen again at the same port after `close`."""
        self._open(int(self._http.server_address[1]))

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def events(self, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the type and fields of every event of a generation."""
        images = self.draw(body)
        total = sum(rows * columns for rows, columns in GRIDS)
        done = 0
        for scale, (image, grid) in enumerate(zip(images, GRIDS, strict=True)):
            self.gate(body, scale)
            done += grid[0] * grid[1]
            encoded = base64.b64encode(image).decode("ascii")
            if scale < len(GRIDS) - 1:
                place = {"scale": scale, "scales": len(GRIDS), "grid": grid, "tokens_done": done, "tokens_total": total}
                more = {**place, "seed": body["seed"]}
                fields = {"b64_json": encoded, "partial_image_index": scale, "bitvar": more}
                yield "image_generation.partial_image", fields
            else:
                warnings = ["The model was never taught “zeppelin”."] if "zeppelin" in body["prompt"] else []
                more = {"seeds": [body["seed"]], "warnings": warnings, "native_size": "64x64"}
                yield "image_generation.completed", {"b64_json": encoded, "output_format": "png", "bitvar": more}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

            def _send(self, status: int, data: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Security-Policy", POLICY)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
                self._send(status, json.dumps(value).encode(), "application/json", headers)

            def _allowed(self) -> bool:
                if stub.key is None or self.headers["Authorization"] == f"Bearer {stub.key}":
                    return True
                self._json(401, {"error": {"message": "Wrong or missing API key.", "code": "invalid_api_key"}})
                return False

            def do_GET(self) -> None:
                if self.path == "/readyz":
                    self._json(200 if stub.status == "ready" else 503, {"status": stub.status})
                elif self.path == "/v1/models":
                    if self._allowed():
                        model = {"id": stub.card["name"], "object": "model", "created": 1, "owned_by": "bitvar"}
                        self._json(200, {"object": "list", "data": [{**model, "bitvar": stub.card}]})
                else:
                    name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
                    file = PAGE / name
                    if re.fullmatch(r"[\w./]+", name) and file.is_file():
                        self._send(200, file.read_bytes(), TYPES[file.suffix], {"Cache-Control": "no-cache"})
                    else:
                        self._json(404, {"error": {"message": "Not found."}})

            def do_DELETE(self) -> None:
                stub.cancelled.put(self.path.rsplit("/", 1)[1])
                self._json(200, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self._allowed():
                    return
                stub.bodies.append(body)
                if stub.answers:
                    answer = stub.answers.pop(0)
                    self._json(answer.status, {"error": answer.error}, answer.headers)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("x-request-id", f"request-{len(stub.bodies)}")
                self.end_headers()
                try:
                    for position in stub.queue:
                        self.wfile.write(f": keep-alive queue={position}\n\n".encode())
                    for index, (kind, fields) in enumerate(stub.events(body)):
                        if index == stub.broken:
                            return
                        text = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
                        self.wfile.write(text.encode())
                        self.wfile.flush()
                except OSError:
                    pass  # the client left

        return Handler
