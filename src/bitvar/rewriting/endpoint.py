"""A rewriter behind any OpenAI-compatible endpoint, asked through its chat completions.

The key is sent to the address that the user named and nowhere else: redirects are not followed. It is no part of the
settings, no message shows it, and an answer that holds it is refused.
"""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.rewriting.address import check_url, holds_key, redacted, shown_url
from bitvar.rewriting.exchange import Reply, exchange
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
        timeout: Seconds to wait for a whole answer.
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
        check_url(self.url)
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
        raise self._error("The rewriter at {url} doesn't answer.", why, fix, is_general=True)

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
        try:
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            reply = exchange(request, timeout=self.timeout, limit=MAX_RESPONSE + 1)
        except http.client.InvalidURL:
            raise self._unreachable() from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            is_late = isinstance(reason, TimeoutError) or isinstance(error, TimeoutError)
            text = f"no answer within {self.timeout:g} s" if is_late else str(reason) or type(reason).__name__
            raise _TransientError(redacted(text, self.key)) from None
        except ValueError:  # its text may show the password of a proxy
            raise self._unreachable() from None
        if not 200 <= reply.status < 300:
            raise self._refused(reply)
        if len(reply.body) > MAX_RESPONSE:
            raise self._unusable("it is longer than a megabyte")
        return reply.body

    def _unreachable(self) -> RewriteError:
        why = "its URL, or that of a proxy in the environment, is no address that can be connected to"
        fix = "check the URL, and the variables http_proxy and https_proxy"
        return self._error("The rewriter at {url} can't be reached.", why, fix, is_general=True)

    def _refused(self, reply: Reply) -> Exception:
        code, said = reply.status, redacted(_message_in(reply.body), self.key)
        text = f"HTTP {code}" + (f": {said}" if said else "")
        if code in _RETRIED:
            return _TransientError(text, wait=_retry_after(reply.headers))
        fixes = {
            401: "set the key of this endpoint",
            403: "set a key that may use this model",
            404: "check the URL, which usually ends in /v1, and the name of the model",
        }
        fix = "check the URL" if 300 <= code < 400 else fixes.get(code, "check the URL and the model")
        return self._error(
            "The rewriter at {url} refuses.", text, fix, is_general=code in (401, 403, 404) or code < 400
        )

    def _read(self, data: bytes, prompt: str) -> str:
        shown = redacted(prompt, self.key)[:60]
        try:
            values: Any = json.loads(data)
            choice = values["choices"][0]
            content = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise self._unusable("it is no chat completion") from None
        if choice.get("finish_reason") == "length":
            raise self._unusable(f"the answer to {shown!r} is cut off")
        if not isinstance(content, str):
            raise self._unusable(f"the answer to {shown!r} has no text")
        if holds_key(content, self.key) or holds_key(" ".join(content.split()), self.key):
            raise self._unusable("it holds the key of the endpoint")
        try:
            return prompt_in_answer(content)
        except ValueError as error:
            raise self._unusable(f"{error}; the prompt was {shown!r}") from None

    def _unusable(self, why: str) -> RewriteError:
        fix = "try another model, or leave rewriting out; what was rewritten is kept"
        return self._error("The answer of the rewriter at {url} can't be used.", why, fix)

    def _error(self, what: str, why: str, fix: str, *, is_general: bool = False) -> RewriteError:
        """Make an error that shows neither the key nor more of the URL than the address."""
        what = what.format(url=redacted(shown_url(self.url), self.key, max_length=2000))
        return RewriteError(what, redacted(why, self.key, max_length=2000), fix, is_general=is_general)


class _TransientError(Exception):
    """A failure that may pass. `wait` is the number of seconds that the endpoint asked to wait."""

    def __init__(self, text: str, *, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait


def _retry_after(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date
        return 0.0


def _message_in(body: bytes) -> str:
    """The message of an error in OpenAI's form."""
    try:
        error: Any = json.loads(body)
        error = error.get("error", error)
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        return ""
    return str(text)
