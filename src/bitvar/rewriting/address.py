"""Addresses of endpoints and their keys: what is accepted, and what messages may show of them."""

import re
from typing import Final
from urllib.parse import urlsplit

from bitvar.errors import UsageError

SHORTEST_SECRET: Final = 6
"""Fewest characters of a key that is secret. Shorter ones fill a blank, such as EMPTY for a server that needs none."""

_USER: Final = re.compile(r"^([a-z][a-z0-9+.-]*:/+)?.*@", re.IGNORECASE | re.DOTALL)


def check_url(url: str) -> None:
    """Refuse a URL that can't be the address of an API.

    Raises:
        UsageError: The URL can never work, or holds a password or a query.
    """
    why = _fault(url)
    if why is not None:
        fix = "give the address of the API, such as http://127.0.0.1:8000/v1"
        raise UsageError(f"Can't use the rewriter's URL {shown_url(url)!r}.", why, fix)


def shown_url(url: str) -> str:
    """The URL without user, password, query and fragment, as messages show it, whatever it looks like."""
    place, *rest = re.split(r"[?#]", url, maxsplit=1)
    if rest and "@" in rest[0]:  # of a password or of the query: nothing tells
        scheme = re.match(r"[a-z][a-z0-9+.-]*://", url, re.IGNORECASE)
        return f"{scheme[0] if scheme else ''}..."
    return _USER.sub(lambda match: match[1] or "", place)


def redacted(text: str, key: str | None, *, max_length: int = 200) -> str:
    """The text on one line of at most `max_length` characters, without the key and what can't be shown."""
    text = " ".join(text.split())
    if holds_key(text, key):
        text = text.replace((key or "").strip(), "[key]")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:max_length])


def holds_key(text: str, key: str | None) -> bool:
    """Whether a text holds a key that is secret."""
    secret = (key or "").strip()
    return len(secret) >= SHORTEST_SECRET and secret in text


def _fault(url: str) -> str | None:
    """What is wrong with a URL; None for nothing."""
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        return "it holds a space, a line break or another character that can't be shown"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host.encode("idna")  # as the connection does: a label has 1 to 63 characters
    except UnicodeError:
        return "its host is no name of a machine"
    except ValueError:
        return "its host or its port is wrong"
    faults = {
        "it is no address of the form http://HOST:PORT/v1": parts.scheme not in ("http", "https") or not host,
        "no server has port 0": port == 0,
        "it holds a user or a password, which would be recorded": "@" in parts.netloc,
        "it has a query or a fragment, which would be recorded": "?" in url or "#" in url,
        "its path has characters that a URL writes as %XX": not parts.path.isascii(),
    }
    return next((why for why, is_so in faults.items() if is_so), None)
