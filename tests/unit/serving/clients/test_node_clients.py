"""Real clients for Node against a real server.

Node 20 or newer and npm must be installed. The tests install the packages themselves (102 MB), with the versions in
`tests/support/clients.py`; by hand:

    npm install openai@6 ai@6 @ai-sdk/openai@3 @ai-sdk/openai-compatible@2 @langchain/core@1 @langchain/openai@1
    BITVAR_CLIENTS=FOLDER pytest -m slow tests/unit/serving/clients
"""

from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.clients import node_packages, run_node
from tests.support.serving import ServerProcess

HERE: Final = Path(__file__).parent
PNG: Final = "iVBORw0K"
"""What the Base64 of a PNG begins with."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(installed: Path) -> Path:
    return node_packages(installed)


@pytest.fixture(scope="module")
def openai(node: Path, server: ServerProcess) -> dict[str, Any]:
    return run_node(node, HERE / "openai_client.mjs", server.url)


@pytest.fixture(scope="module")
def ai_sdk(node: Path, server: ServerProcess) -> dict[str, Any]:
    return run_node(node, HERE / "ai_sdk_client.mjs", server.url)


def test_openai_generates_images_and_reads_usage_and_our_own_fields(openai: dict[str, Any]) -> None:
    answer = openai["generate"]
    assert answer["images"] == [PNG, PNG]
    assert answer["size"] == "512x512"
    assert answer["seeds"] == [7, 8]
    usage = answer["usage"]
    assert usage["output_tokens"] == usage["output_tokens_details"]["image_tokens"] == 170
    assert usage["total_tokens"] == usage["input_tokens"] + 170
    assert openai["models"] == ["icons"]


def test_openai_reads_a_stream(openai: dict[str, Any]) -> None:
    events = openai["stream"]
    assert [event["type"].split(".")[1] for event in events] == ["partial_image", "partial_image", "completed"]
    assert [event["index"] for event in events] == [0, 1, None]
    assert all(event["image"] == PNG for event in events)
    assert events[-1]["usage"]["output_tokens"] == 85


def test_openai_raises_an_error_within_a_stream(openai: dict[str, Any]) -> None:
    assert openai["streamError"]["name"] == "APIError"
    assert openai["streamError"]["code"] == "cancelled"


def test_openai_edits_an_upload_without_a_length(openai: dict[str, Any]) -> None:
    assert openai["edit"] == {"images": [PNG, PNG], "kept": 2}
    assert openai["editStream"] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert (openai["editError"]["status"], openai["editError"]["param"]) == (400, "image")


def test_openai_raises_a_wrong_value_with_its_field(openai: dict[str, Any]) -> None:
    error = openai["size"]
    assert (error["name"], error["status"], error["param"]) == ("BadRequestError", 400, "size")


@pytest.mark.parametrize(("provider", "calls"), [("openai", 3), ("compatible", 1)])
def test_the_ai_sdk_generates_images(ai_sdk: dict[str, Any], provider: str, calls: int) -> None:
    result = ai_sdk[provider]
    assert result["images"] == [{"base64": PNG, "mediaType": "image/png"}] * 3
    assert result["calls"] == calls
    assert "seed" in result["warnings"]  # the client drops it, so it must travel as an option of the provider
    assert result["usual"] == PNG


@pytest.mark.parametrize("provider", ["openai", "compatible"])
def test_the_ai_sdk_raises_errors_with_our_message(ai_sdk: dict[str, Any], provider: str) -> None:
    error = ai_sdk[provider]["error"]
    assert (error["status"], error["retryable"]) == (400, False)
    assert "multiples of 16" in error["message"]
    assert ai_sdk[provider]["edit"] == {"image": PNG}


def test_the_ai_sdk_passes_options_of_the_provider_on(ai_sdk: dict[str, Any]) -> None:
    same, different = ai_sdk["seeded"]
    assert (same, different) == (True, False)


def test_langchain_gets_urls_that_give_images(node: Path, server: ServerProcess) -> None:
    result = run_node(node, HERE / "langchain_client.mjs", server.url)
    assert result["url"].startswith(f"{server.url}/v1/images/")
    assert result["image"] == PNG
    assert result["several"] == ["image_url", "image_url"]
    assert result["base64"] == PNG
