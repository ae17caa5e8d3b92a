"""How a device shares. This module must not do anything with it."""

from __future__ import annotations

from icnblocks.errors import UsageError
from icnblocks.values import dataclass


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """How to share.

    Attributes:
        host: the address to listen at; empty for all.
        port: the port; 0 takes a free one.
        rate: bytes a second that are sent at most, over all peers; None for no limit.
        peers: connections that are served at once; more are asked to come back later.
        neighbours: how many neighbours to get blocks from at a time.
    """

    host: str = ""
    port: int = 0
    rate: float | None = None
    peers: int = 32
    neighbours: int = 8


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[V6]:PORT` or `:PORT`.

    Raises:
        UsageError: for anything else.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise UsageError(f"not HOST:PORT: {text[:100]!r}")
    try:
        host.encode("idna")
    except UnicodeError:
        raise UsageError(f"not a host: {host[:100]!r}") from None
    return host, int(port)
