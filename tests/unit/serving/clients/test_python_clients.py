"""Real clients for Python, each in a virtual environment of its own, against a real server that wants a key.

The tests install the packages themselves: LiteLLM (380 MB), langchain-community (280 MB), webuiapi (30 MB), the wheel
of Open WebUI without its dependencies (106 MB), and what its image router imports (70 MB). By hand:

    pip install litellm==1.110.2
    pip install langchain-community==0.4.2 openai==3.57.0
    pip install webuiapi==0.9.17
    pip download --no-deps open-webui==0.12.4; pip install aiohttp fastapi pillow
    BITVAR_CLIENTS=FOLDER pytest -m slow tests/unit/serving/clients
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.clients import OPEN_WEBUI, python_packages, run_client, wheel_files
from tests.support.serving import ServerProcess, running_server

HERE: Final = Path(__file__).parent
KEY: Final = "a-key-of-the-tests"
PNG: Final = "iVBORw0K"
ROUTER: Final = "open_webui/routers/images.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"{KEY}\n")
    with running_server("--any-model", "--api-key-file", str(keys)) as server:
        yield server


def _run(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # it fetches a list of prices otherwise
    return run_client([str(python), str(HERE / script), *arguments], HERE, offline)


@pytest.fixture(scope="module")
def litellm(installed: Path, keyed: ServerProcess) -> dict[str, Any]:
    return _run(python_packages(installed, "litellm", "litellm==1.110.2"), "litellm_client.py", keyed.url, KEY)


@pytest.fixture(scope="module")
def langchain(installed: Path, keyed: ServerProcess) -> dict[str, Any]:
    wanted = ("langchain-community==0.4.2", "openai==3.57.0")
    return _run(python_packages(installed, "langchain", *wanted), "langchain_client.py", keyed.url, KEY)


@pytest.fixture(scope="module")
def webuiapi(installed: Path, keyed: ServerProcess) -> dict[str, Any]:
    return _run(python_packages(installed, "webuiapi", "webuiapi==0.9.17"), "webuiapi_client.py", keyed.url, KEY)


@pytest.fixture(scope="module")
def open_webui(installed: Path, keyed: ServerProcess) -> dict[str, Any]:
    python = python_packages(installed, "open-webui-needs", "aiohttp>=3", "fastapi>=0.115", "pillow>=11")
    router = wheel_files(installed, OPEN_WEBUI, ROUTER) / ROUTER
    return _run(python, "open_webui_client.py", str(router), keyed.url, KEY)


def test_litellm_generates_images_with_our_own_fields(litellm: dict[str, Any]) -> None:
    assert litellm["images"] == [PNG, PNG]
    assert litellm["is_seeded"]
    assert litellm["tokens"] == 170
    assert litellm["edited"] == [PNG]


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [("wrong", 400, "multiples of 16"), ("unknown", 400, "num_inference_steps"), ("edit", 400, "it is not PNG")],
)
def test_litellm_raises_errors_with_our_message(litellm: dict[str, Any], call: str, status: int, said: str) -> None:
    assert (litellm[call]["class"], litellm[call]["status"]) == ("BadRequestError", status)
    assert said in litellm[call]["message"]


def test_langchain_reads_urls_once_its_client_asks_for_them(langchain: dict[str, Any], keyed: ServerProcess) -> None:
    assert langchain["url"].startswith(f"{keyed.url}/v1/images/")
    assert langchain["signature"] == "PNG"
    assert "NoneType" in langchain["plain"]  # without it; if this changes, say so in the docs


def test_webuiapi_generates_images(webuiapi: dict[str, Any]) -> None:
    assert webuiapi["sizes"] == [[512, 512]] * 2
    assert webuiapi["seeds"] == [7, 8]
    assert webuiapi["prompt"] == "a red apple"
    lines = webuiapi["text"].split("\n")
    assert lines[:2] == ["a red apple", "Negative prompt: green"]
    assert "CFG scale: 3.0, Seed: 8, Size: 512x512" in lines[2]
    assert webuiapi["records"] == [True, True]


def test_webuiapi_reads_lists_and_chooses_the_model(webuiapi: dict[str, Any]) -> None:
    assert webuiapi["checkpoint"] == "icons"
    assert webuiapi["models"] == ["icons"]
    assert len(webuiapi["samplers"]) == 1


def test_webuiapi_follows_and_interrupts_a_request(webuiapi: dict[str, Any]) -> None:
    assert 0.15 <= webuiapi["progress"] < 1
    assert webuiapi["steps"] == 4
    assert webuiapi["preview"]
    assert 1 <= webuiapi["interrupted"] < 10


def test_webuiapi_raises_errors(webuiapi: dict[str, Any]) -> None:
    status, detail = webuiapi["error"]
    assert (status, "ratio" in detail) == (422, True)
    assert webuiapi["stranger"] == 401


@pytest.mark.parametrize("settings", ["openai", "a1111"])
def test_open_webui_saves_two_images(open_webui: dict[str, Any], settings: str) -> None:
    assert [saved["begin"] for saved in open_webui[settings]] == [PNG, PNG]
    assert {saved["type"] for saved in open_webui[settings]} == {"image/png"}


@pytest.mark.parametrize("settings", ["openai, gpt-image", "openai, parameters", "a1111, chosen", "a1111, parameters"])
def test_open_webui_saves_an_image_with_other_settings(open_webui: dict[str, Any], settings: str) -> None:
    assert [saved["begin"] for saved in open_webui[settings]] == [PNG]


def test_open_webui_saves_an_edit(open_webui: dict[str, Any]) -> None:
    assert [saved["begin"] for saved in open_webui["edit, one"]] == [PNG]


def test_open_webui_keeps_the_info_of_a1111(open_webui: dict[str, Any]) -> None:
    info = json.loads(open_webui["a1111, parameters"][0]["info"])
    assert (info["seed"], info["cfg_scale"], info["width"]) == (7, 3, 512)
    assert info["bitvar"]["ignored"] == ["steps", "sampler_name"]


def test_open_webui_reads_the_models_of_a1111(open_webui: dict[str, Any]) -> None:
    assert open_webui["a1111, models"] == [{"id": "icons", "name": "icons"}]
    assert open_webui["a1111, model"] == "icons"
    assert open_webui["a1111, verified"] is True


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("openai, wrong size", "Bad Request"),
        ("edit, two", "Bad Request"),
        ("a1111, stranger", "sd_model_checkpoint"),
    ],
)
def test_open_webui_shows_an_error(open_webui: dict[str, Any], settings: str, said: str) -> None:
    assert open_webui[settings]["status"] == 400
    assert said in open_webui[settings]["detail"]  # it shows the reason of the status, or the key that it missed
