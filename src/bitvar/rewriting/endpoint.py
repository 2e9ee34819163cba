"""A rewriter behind any OpenAI-compatible endpoint, asked through its chat completions.

The key is sent to the address that the user named and nowhere else: redirects are not followed. It is no part of the
settings, and no message shows it.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Final
from urllib.parse import urlsplit

from bitvar.errors import UsageError
from bitvar.rewriting.instruction import INSTRUCTION, prompt_in_answer
from bitvar.rewriting.rewrite import RewriteError

MAX_RESPONSE: Final = 1 << 20
"""Most bytes of a response."""

_RETRIED: Final = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT: Final = 60.0


@dataclass(frozen=True)
class EndpointRewriter:
    """A `Rewriter` that asks an endpoint.

    Attributes:
        url: Address of the API, such as http://127.0.0.1:8000/v1.
        model: Name of the model there.
        instruction: Instruction for every prompt.
        key: API key; None for an endpoint that needs none.
        temperature: Temperature of the answers, from 0 to 2. Some models accept 1 alone.
        timeout: Seconds to wait for an answer.
        tries: Number of tries before giving up, with growing pauses between them.
        sleep: Function that waits.
    """

    url: str
    model: str
    instruction: str = INSTRUCTION
    key: str | None = field(default=None, repr=False)
    temperature: float = 0.0
    timeout: float = 60.0
    tries: int = 5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            why = "it is no address such as http://127.0.0.1:8000/v1"
            raise UsageError(f"Can't use the rewriter's URL {self.url!r}.", why, "give the address of the API")
        if parts.username or parts.password:
            raise UsageError("The rewriter's URL holds a password.", "it would be recorded", "give the key apart")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and self.key.strip()):
            raise UsageError("The rewriter's key is no key.", "it is blank or has odd characters", "set it again")

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model

    @property
    def settings(self) -> dict[str, Any]:
        """Address, model, instruction and sampling of the answers."""
        own = {"url": self._address, "model": self.model, "temperature": self.temperature}
        return {"kind": "endpoint", **own, "instruction": self.instruction}

    def rewrite(self, prompt: str) -> str:
        """Ask for a rewritten prompt.

        Raises:
            RewriteError: The endpoint can't be reached, refuses, or gives no answer that can be used.
        """
        pause, failure = 1.0, None
        for attempt in range(self.tries):
            try:
                return self._read(self._post(prompt), prompt)
            except _TransientError as error:
                failure = error
                if attempt + 1 < self.tries:
                    self.sleep(min(max(pause, error.wait), _LONGEST_WAIT))
                    pause *= 2
        why = f"{failure}, {self.tries} times in a row"
        fix = "see whether it runs, and repeat the command: what was rewritten is kept"
        raise RewriteError(f"The rewriter at {self.url} doesn't answer.", why, fix, is_general=True)

    @property
    def _address(self) -> str:
        """The address of the API, which some users give with the path of its chat completions."""
        return self.url.rstrip("/").removesuffix("/chat/completions")

    def _post(self, prompt: str) -> bytes:
        messages = [{"role": "system", "content": self.instruction}, {"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": self.temperature}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        address = f"{self._address}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                data = response.read(MAX_RESPONSE + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error, error.read(MAX_RESPONSE)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            is_late = isinstance(reason, TimeoutError) or isinstance(error, TimeoutError)
            text = f"no answer within {self.timeout:g} s" if is_late else str(reason) or type(reason).__name__
            raise _TransientError(text) from None
        if len(data) > MAX_RESPONSE:
            raise self._unusable("it is longer than a megabyte")
        return data

    def _refused(self, error: urllib.error.HTTPError, body: bytes) -> Exception:
        said = _message_in(body)
        text = f"HTTP {error.code}" + (f": {said}" if said else "")
        if error.code in _RETRIED:
            return _TransientError(text, wait=_retry_after(error.headers))
        fixes = {
            401: "set the key of this endpoint",
            403: "set a key that may use this model",
            404: "check the URL, which usually ends in /v1, and the name of the model",
        }
        fix = "check the URL" if 300 <= error.code < 400 else fixes.get(error.code, "check the URL and the model")
        what = f"The rewriter at {self.url} refuses."
        return RewriteError(what, text, fix, is_general=error.code in (401, 403, 404) or error.code < 400)

    def _read(self, data: bytes, prompt: str) -> str:
        try:
            values: Any = json.loads(data)
            choice = values["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise self._unusable("it is no chat completion") from None
        if choice.get("finish_reason") == "length":
            raise self._unusable(f"the answer to {prompt[:60]!r} is cut off")
        if not isinstance(content, str):
            raise self._unusable(f"the answer to {prompt[:60]!r} has no text")
        try:
            return prompt_in_answer(content)
        except ValueError as error:
            raise self._unusable(f"{error}; the prompt was {prompt[:60]!r}") from None

    def _unusable(self, why: str) -> RewriteError:
        fix = "try another model, or leave rewriting out; what was rewritten is kept"
        return RewriteError(f"The answer of the rewriter at {self.url} can't be used.", why, fix)


class _TransientError(Exception):
    """A failure that may pass. `wait` is the number of seconds that the endpoint asked to wait."""

    def __init__(self, text: str, *, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener that follows no redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _retry_after(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0


def _message_in(body: bytes) -> str:
    """The message of an error in OpenAI's form, on one line and not long."""
    try:
        error: Any = json.loads(body)
        error = error.get("error", error)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        return ""
    return " ".join(str(text).split())[:200]
