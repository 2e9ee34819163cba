"""Settings of the HTTP server: where it listens, who may ask, and the limits of a connection."""

import ipaddress
import re
from typing import Annotated, Final

from pydantic import Field, SecretStr

from bitvar.config import Config
from bitvar.errors import UsageError

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
"""Names under which this machine reaches itself."""


PUBLIC_URL: Final = r"^https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$"
"""Pattern of a public URL: no user, no query, no slash at the end."""


HOST_NAME: Final = r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*"
"""Pattern of what a Host header can name: a name or an address, with a port or without."""

ORIGIN: Final = r"null|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
"""Pattern of an origin as browsers send it: in lower case, without a path or a slash at the end."""


class ServerSettings(Config):
    """Everything the HTTP side of a server is told.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_keys: Keys of which requests must carry one; empty lets everybody in who reaches the address.
        aliases: Further names that the model answers to.
        any_model: Whether it answers to every name.
        allowed_hosts: Values of the Host header that are served besides this machine's own; empty means any, where the
            server listens to others than this machine.
        allowed_origins: Origins of web pages that may use the API from a browser.
        public_url: Where clients reach the server through a proxy, without a slash at the end; the URLs of images begin
            with it. None builds them from the Host header. Headers such as X-Forwarded-Host are never believed.
        max_body_bytes: Longest body of a JSON request.
        max_upload_bytes: Longest body of a request with images.
        max_file_bytes: Longest file in it.
        upload_memory: Most bytes of such bodies that all requests hold together, until they are answered.
        upload_timeout: Seconds that such a body may take to arrive.
        body_timeout: Seconds that a request may take to arrive, headers and body each.
        send_timeout: Seconds that a client may leave an answer unread.
        max_connections: Most connections at a time.
        result_seconds: Seconds that the URL of an image is valid.
        result_bytes: Memory in bytes for images that have a URL.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_keys: Annotated[tuple[SecretStr, ...], Field(max_length=1000)] = ()
    aliases: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=100)] = ()
    any_model: bool = False
    allowed_hosts: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    allowed_origins: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    public_url: Annotated[str, Field(pattern=PUBLIC_URL, max_length=1000)] | None = None
    max_body_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 30)
    max_upload_bytes: int = Field(default=64 << 20, ge=1024, le=1 << 30)
    max_file_bytes: int = Field(default=50 << 20, ge=1024, le=1 << 30)
    upload_memory: int = Field(default=512 << 20, ge=1024)
    upload_timeout: float = Field(default=120.0, gt=0, le=3600)
    body_timeout: float = Field(default=20.0, gt=0, le=3600)
    send_timeout: float = Field(default=30.0, gt=0, le=3600)
    max_connections: int = Field(default=900, ge=1, le=100_000)
    result_seconds: float = Field(default=600.0, gt=0, le=86_400)
    result_bytes: int = Field(default=1 << 28, ge=0)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Refuse to serve other machines without a key, and hosts and origins that no request can name.

        Raises:
            UsageError: The address is public and there is no key, or a host or an origin has the wrong form.
        """
        for host in self.allowed_hosts:
            if re.fullmatch(HOST_NAME, host) is None:
                why = "no request would match it: it must be a name alone, without scheme, path and wildcard"
                raise UsageError(f"Can't use --allowed-host {host!r}.", why, "write a name, such as images.example.org")
        for origin in self.allowed_origins:
            if re.fullmatch(ORIGIN, origin) is None:
                why = (
                    "no browser would send it: it must be a scheme and a host in lower case, without path and wildcard"
                )
                raise UsageError(
                    f"Can't use --allow-origin {origin!r}.", why, "write one, such as https://app.example.org"
                )
        if not self.is_local and not self.api_keys:
            raise UsageError(
                f"Can't listen on {self.host} without a key.",
                "everybody who reaches that address could use the model",
                "give --api-key-file FILE, or listen on 127.0.0.1",
            )


def is_loopback(host: str) -> bool:
    """Whether an address or name reaches only this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
