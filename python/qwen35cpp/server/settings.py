"""What can be set about a server, and its limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidArgument

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """How to serve. The defaults suit one person on one computer.

    Args:
        host: the address to listen on; one that other computers reach needs an API key.
        port: 0 takes a free one.
        api_keys: whoever has one of them may ask; empty: everyone who reaches the server.
        allowed_hosts: names by which the server may be called besides those of the loopback.
        cors_origins: pages of other origins that may use the server, such as https://example.org.
        name: the model's name in answers; None is that of its file.
        parallel: requests that run at once; more wait.
        queue: requests that may wait; the next is told to come back later.
        max_body: bytes of a request.
        max_images: pictures in a request; the Llama has a limit of its own, see vision.Limits.
        body_idle: seconds without a byte after which a request is given up.
        timeout: seconds that a request may run; 0 is no limit.
        stalled: seconds after which a reader that takes nothing loses its stream.
        grace: seconds that running answers get at shutdown.
        overflow: "drop" lets conversations that are too long for the context lose their oldest
            turns, but not the system prompt; by default they are refused.
    """

    host: str = "127.0.0.1"
    port: int = 8035
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    name: str | None = None
    parallel: int = 4
    queue: int = 64
    max_body: int = 32 << 20
    max_images: int = 16
    body_idle: float = 20.0
    timeout: float = 600.0
    stalled: float = 60.0
    grace: float = 10.0
    overflow: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.api_keys:
            raise InvalidArgument(
                f"other computers can reach {self.host}: that needs an API key",
                hint="pass --api-key-file, set QWEN35CPP_API_KEY, or listen on 127.0.0.1",
            )
        if any(not key.isascii() or not key.isprintable() or not key for key in self.api_keys):
            raise InvalidArgument("an API key must consist of printable ASCII characters")
        if self.parallel < 1 or self.queue < 0:
            raise InvalidArgument("parallel must be at least 1 and queue at least 0")

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def accepts_host(self, host: str) -> bool:
        """Whether a Host header names this server.

        A web page of someone else can make its own name point here. Where a key is needed anyway,
        names are free unless some are given.
        """
        name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.split(":")[0]
        name = name.lower().rstrip(".")
        if not self.is_loopback and self.api_keys and not self.allowed_hosts:
            return True
        return name in LOOPBACK or name == self.host or name in self.allowed_hosts
