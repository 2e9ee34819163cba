"""The applications that KubeRay deploys, on a Ray of this machine: the front behind Ray Serve's own proxy."""

import base64
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray warns of itself

KEY = "a-key-of-more-than-16-characters"
MANIFEST = Path(__file__).parents[4] / "deploy" / "kubernetes" / "rayservice.yaml"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """The two applications as in the manifest, but small, and a client of them."""
    ray = pytest.importorskip("ray")
    from ray import serve

    from bitvar.serving.replicas import app

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    keys = tmp_path / "keys"
    keys.write_text(KEY, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        model = app.model({"worker": {"threads": 1}, "replicas": {"replicas": 1, "cpus": 1, "drain_seconds": 30}})
        front = app.front({"application": "model", "api_key_file": str(keys)})
        serve.run_many(
            [
                serve.RunTarget(front, name="front", route_prefix="/"),  # first, as it must wait for the model
                serve.RunTarget(model, name="model", route_prefix=None),
            ]
        )
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def draw(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    """Events of a streamed request, with the time at which each came."""
    body = {"prompt": "a red apple", "seed": 7, "stream": True, "partial_images": 3, **fields}
    found = []
    with client.stream("POST", "/v1/images/generations", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line.removeprefix("data: ")) | {"at": time.monotonic()})
    return found


def test_the_applications_of_the_manifest_serve(service: httpx.Client) -> None:
    assert service.get("/readyz").json() == {"status": "ready"}
    assert service.get("/livez").json() == {"status": "alive"}
    assert service.get("/v1/models", headers={"authorization": "Bearer no"}).status_code == 401
    assert service.get("/v1/models").json()["data"][0]["id"] == "icons"
    events = draw(service)
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    assert events[0]["at"] < events[-1]["at"]  # it streams
    file = base64.b64decode(events[-1]["b64_json"])
    assert hashlib.sha256(file).hexdigest() == hashlib.sha256(whole(service)).hexdigest()
    change_the_model(service, file)


def whole(client: httpx.Client) -> bytes:
    answer = client.post("/v1/images/generations", json={"prompt": "a red apple", "seed": 7})
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def change_the_model(client: httpx.Client, before: bytes) -> None:
    """Replace the only replica by one of another name; a request that comes meanwhile waits for it."""
    from ray import serve

    from bitvar.serving.replicas import app

    worker = {"threads": 1, "served_name": "renamed"}
    model = app.model({"worker": worker, "replicas": {"replicas": 1, "cpus": 1, "drain_seconds": 30}})
    serve.run_many([serve.RunTarget(model, name="model", route_prefix=None)], wait_for_applications_running=False)
    assert whole(client) == before  # no request fails while there is no replica
    end = time.monotonic() + 120
    while client.get("/v1/models").json()["data"][0]["id"] != "renamed":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert client.get("/readyz").json() == {"status": "ready"}


def test_ray_serve_understands_the_manifest() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    text = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]["serveConfigV2"]
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert [application.name for application in config.applications] == ["model", "front"]
