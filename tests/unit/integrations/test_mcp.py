"""The MCP server, asked by the official client."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

anyio = pytest.importorskip("anyio")
pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters  # noqa: E402

from bitvar.errors import UsageError  # noqa: E402
from bitvar.integrations.mcp import studio as studio_module  # noqa: E402
from bitvar.integrations.mcp.server import build_server  # noqa: E402
from bitvar.integrations.mcp.studio import Studio  # noqa: E402
from bitvar.pipeline import InfinityPipeline  # noqa: E402
from bitvar.pipeline.record import find_record  # noqa: E402
from tests.support.tiny import rough_pipeline  # noqa: E402

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("rough"))


@pytest.fixture
def studio(pipeline: InfinityPipeline, tmp_path: Path) -> Studio:
    return Studio(lambda: pipeline, folder=None, cache=tmp_path / "hub")


def ask(studio: Studio, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
    async def call() -> Any:
        async with Client(build_server(studio)) as client:
            return await client.call_tool(tool, arguments or {}, **options)

    return anyio.run(call)


def picture(result: Any, index: int = 0) -> Image.Image:
    assert not result.is_error, result.content
    return Image.open(io.BytesIO(base64.b64decode(result.content[2 * index].data)))


def facts(result: Any, index: int = 0) -> dict[str, Any]:
    return json.loads(result.content[2 * index + 1].text)


def test_the_tools_and_their_arguments(studio: Studio) -> None:
    async def call() -> Any:
        async with Client(build_server(studio)) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in anyio.run(call)}
    assert sorted(tools) == ["describe_model", "edit_image", "generate_image", "list_models"]
    schema = tools["generate_image"].input_schema
    assert schema["required"] == ["prompt"]
    assert set(schema["properties"]) == {
        "prompt", "width", "height", "count", "seed", "negative_prompt", "guidance_scale",
    }  # fmt: skip
    assert all("description" in value for value in schema["properties"].values())


def test_generate(studio: Studio, pipeline: InfinityPipeline) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    wanted = {"prompt": PROMPT, "seed": 5, "count": 2, "guidance_scale": 2.0, "negative_prompt": "a dog"}
    result = ask(studio, "generate_image", wanted, progress_callback=progress)
    same = pipeline(PROMPT, seed=5, num_images_per_prompt=2, guidance_scale=2.0, negative_prompt="a dog")
    assert [picture(result, k).tobytes() for k in range(2)] == [image.tobytes() for image in same.images]
    assert [facts(result, k)["settings"]["seed"] for k in range(2)] == [5, 6]
    assert [facts(result, k)["name"] for k in range(2)] == ["image-1", "image-2"]
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == "scale 3 of 3: 4x4 tokens"
    record = find_record(base64.b64decode(result.content[0].data))
    assert record is not None and record.prompt == PROMPT


def test_edit_an_earlier_image_and_one_that_is_sent(studio: Studio) -> None:
    first = ask(studio, "generate_image", {"prompt": PROMPT, "seed": 1})
    changed = ask(studio, "edit_image", {"prompt": "a blue dog", "image": "image-1", "seed": 1})
    assert facts(changed)["settings"]["edit"]["method"] == "localized"
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    file = io.BytesIO()
    mask.save(file, "PNG")
    sent = {
        "prompt": "a blue dog",
        "image": "data:image/png;base64," + first.content[0].data,
        "mask": base64.b64encode(file.getvalue()).decode(),
        "strength": 1.0,
        "seed": 1,
    }
    within = facts(ask(studio, "edit_image", sent))["settings"]["edit"]
    assert within["method"] == "redraw" and within["mask_sha256"]


def test_the_model_and_the_models(studio: Studio) -> None:
    described = json.loads(ask(studio, "describe_model").content[0].text)
    assert described["sizes"] == ["16x16", "16x8"] and described["images_are_written_to"] is None
    names = [model["name"] for model in json.loads(ask(studio, "list_models").content[0].text)]
    assert names[:3] == ["icons", "general", "fine"]


def test_files_are_written_and_read_in_one_folder_only(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    studio = Studio(lambda: pipeline, folder=folder, cache=tmp_path / "hub")
    result = ask(studio, "generate_image", {"prompt": PROMPT, "seed": 1})
    path = Path(facts(result)["file"])
    assert path.parent == folder and path.read_bytes()[:4] == b"\x89PNG"
    assert not ask(studio, "edit_image", {"prompt": "a dog", "image": path.name}).is_error
    for outside in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        refused = ask(studio, "edit_image", {"prompt": "a dog", "image": outside})
        assert refused.is_error and "There is no image" in refused.content[0].text


def test_nothing_is_written_unless_allowed(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask(studio, "generate_image", {"prompt": PROMPT})
    assert [path.name for path in tmp_path.iterdir()] == []
    refused = ask(studio, "edit_image", {"prompt": "a dog", "image": "cat.png"})
    assert refused.is_error and "neither an image of this session" in refused.content[0].text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "x" * 5000}, "5,000 characters"),
        ({"prompt": PROMPT, "count": 9}, "less than or equal to 4"),
        ({"prompt": PROMPT, "width": 16}, "Only one of height and width"),
        ({"prompt": PROMPT, "seed": -1}, "greater than or equal to 0"),
        ({"prompt": "a dog " * 40}, "too long"),
    ],
    ids=["empty", "long", "many", "one-side", "seed", "tokens"],
)
def test_wrong_calls(studio: Studio, arguments: dict[str, Any], words: str) -> None:
    result = ask(studio, "generate_image", arguments)
    assert result.is_error and words in result.content[0].text
    assert "Traceback" not in result.content[0].text


def test_a_cancelled_call_stops_and_the_next_one_draws(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    finish = Studio._finish
    monkeypatch.setattr(Studio, "_finish", lambda self, event: drawn.append(event.index) or finish(self, event))

    async def call() -> Any:
        async with Client(build_server(studio)) as client:
            with anyio.CancelScope() as scope:

                async def stop(done: float, total: float | None, message: str | None) -> None:
                    scope.cancel()

                await client.call_tool("generate_image", {"prompt": PROMPT}, progress_callback=stop)
            assert scope.cancelled_caught
            return await client.call_tool("generate_image", {"prompt": PROMPT, "seed": 3})

    assert facts(anyio.run(call))["name"] == "image-1"  # the cancelled one kept nothing
    assert len(drawn) == 1


def test_old_images_are_forgotten(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "_KEPT", 2)
    for seed in range(3):
        ask(studio, "generate_image", {"prompt": PROMPT, "seed": seed})
    with pytest.raises(UsageError, match="There is no image-1"):
        studio._find("image-1", "image")
    assert studio._find("image-3", "image")


@pytest.mark.slow
def test_the_command_on_standard_input(tiny_model: Path) -> None:
    async def call() -> Any:
        options = ["-m", "bitvar", "mcp", str(tiny_model), "--device", "cpu"]
        command = StdioServerParameters(command=sys.executable, args=options, env=dict(os.environ))
        async with Client(command) as client:
            return await client.call_tool("generate_image", {"prompt": PROMPT, "seed": 5})

    assert picture(anyio.run(call)).size == (16, 16)


@pytest.mark.slow
def test_the_command_by_http(tiny_model: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["mcp", str(tiny_model), "--http", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen([sys.executable, "-m", "bitvar", *options], stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/mcp"

    async def call() -> Any:
        async with Client(address) as client:
            return await client.call_tool("generate_image", {"prompt": PROMPT, "seed": 5})

    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        assert picture(anyio.run(call)).size == (16, 16)
        foreign = httpx.post(address, json={}, headers={"Host": "example.org"})
        page = httpx.post(address, json={}, headers={"Origin": "http://example.org"})
        assert (foreign.status_code, page.status_code) == (421, 403)
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_words_that_the_model_was_never_taught_are_named(tmp_path: Path) -> None:
    studio = Studio(InfinityPipeline.from_pretrained, folder=None, cache=tmp_path / "hub")
    assert "dragon" in facts(ask(studio, "generate_image", {"prompt": "a dragon", "seed": 1}))["never_taught"]
    assert "never_taught" not in facts(ask(studio, "generate_image", {"prompt": "a red apple", "seed": 1}))


def test_a_used_port_is_refused() -> None:
    from bitvar.cli.mcp import _require_free

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            _require_free(taken.getsockname()[1])
