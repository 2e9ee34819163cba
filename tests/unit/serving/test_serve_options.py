"""Values of `bitvar serve` that could have no effect, or no sense, are refused before the model is loaded."""

from typing import Any

import pytest
from typer.testing import CliRunner

from bitvar.cli.main import app as command_line
from bitvar.serving.http.settings import ServerSettings


def start(*options: str) -> Any:
    return CliRunner().invoke(command_line, ["serve", "--port", "0", *options])


@pytest.mark.parametrize("option", ["--memory-gib", "--request-timeout", "--drain-timeout"])
@pytest.mark.parametrize("value", ["inf", "1e300", "nan", "-inf"])
def test_a_number_without_bound_is_refused(option: str, value: str) -> None:
    result = start(option, value)
    assert result.exit_code == 2, result.exception
    assert option in result.stderr


@pytest.mark.parametrize(
    ("given", "missing"), [("--c2pa-key", "--c2pa-certificate"), ("--c2pa-certificate", "--c2pa-key")]
)
def test_a_key_and_a_certificate_are_given_together(given: str, missing: str) -> None:
    result = start(given, "file.pem")
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3), result.stderr
    assert f"{missing} is missing" in result.stderr
    assert "--c2pa-certificate and --c2pa-key" in result.stderr


@pytest.mark.parametrize(
    "host",
    ["", " ", "https://images.example.org", "images.example.org/", "images.example.org/v1", "*", "*.example.org",
     "user@example.org", "a b", "a.example.org,b.example.org", "a\nb"],
)  # fmt: skip
def test_a_host_that_no_request_can_name_is_refused(host: str) -> None:
    result = start("--allowed-host", host)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3), result.stderr
    assert "--allowed-host" in result.stderr


@pytest.mark.parametrize(
    "host", ["images.example.org", "Images.Example.org:443", "10.0.0.7", "[fd00::7]:80", "fd00::7", "my_host"]
)
def test_a_name_or_an_address_is_a_host(host: str) -> None:
    ServerSettings(allowed_hosts=(host,)).check()


@pytest.mark.parametrize(
    "origin",
    ["", "x", "*", "app.example.org", "https://", "https://app.example.org/", "https://app.example.org/page",
     "https://App.example.org", "HTTPS://app.example.org", "https://*.example.org", "https://user@app.example.org"],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    result = start("--allow-origin", origin)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3), result.stderr
    assert "--allow-origin" in result.stderr


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.org", "http://127.0.0.1:3000", "http://[::1]:3000", "chrome-extension://abc", "null"],
)
def test_what_browsers_send_is_an_origin(origin: str) -> None:
    ServerSettings(allowed_origins=(origin,)).check()


ADAPTERS = {
    "ink": "it has no name",
    "ink=": "nothing follows the name",
    "=ink.lora": "letters",
    "my ink=ink.lora": "letters",
    "a/b=ink.lora": "letters",
}


@pytest.mark.parametrize("text", ADAPTERS)
def test_an_adapter_without_a_usable_name_is_refused(text: str) -> None:
    result = start("--lora", text)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 3), result.stderr
    assert ADAPTERS[text] in result.stderr and "pattern" not in result.stderr


def test_two_adapters_of_one_name_are_refused() -> None:
    result = start("--lora", "ink=one.lora", "--lora", "ink=two.lora")
    assert result.exit_code == 2 and "ink is another adapter already" in result.stderr


@pytest.mark.parametrize("option", ["--served-name", "--alias"])
def test_an_empty_name_is_refused(option: str) -> None:
    assert start(option, "").exit_code == 2


def test_a_strange_public_url_is_explained_in_words() -> None:
    result = start("--public-url", "images.example.org")
    assert result.exit_code == 2 and "http://" in result.stderr and "pattern" not in result.stderr
