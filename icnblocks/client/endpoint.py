"""Where a server is and how to get there: its URL, options, proxies and TLS trust.

This module must not open connections.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Final, Self
from urllib.parse import unquote, urlsplit

from icnblocks.errors import UsageError
from icnblocks.limits import KIB
from icnblocks.values import dataclass

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

_SHOWN_CHARS: Final = 200
_NAMES_PROXY: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to talk to a server.

    Attributes:
        ca_file: PEM file of the only authorities to trust, instead of the system's.
        token: sent as `Authorization: Bearer TOKEN`.
        authorize: where there is no token: given the authority (`host:port`), returns the value
            of the Authorization header of a request that writes.
        connect_s: seconds to reach the server once its name is resolved, TLS included. For how
            long resolution may take, the system's resolver decides.
        stall_s: seconds of waiting in which at least `floor_bytes` must come.
        floor_bytes: fewer bytes than this in `stall_s` is a stall, however they trickle in.
        patience_s: seconds for which a server may say that it is at work, without a block.
        user_agent: how to introduce oneself.
        environment: whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` count.
            Loopback addresses are never reached through a proxy.
    """

    ca_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    authorize: Callable[[str], str] | None = field(default=None, repr=False)
    connect_s: float = 10.0
    stall_s: float = 15.0
    floor_bytes: int = 2 * KIB
    patience_s: float = 300.0
    user_agent: str = "icnblocks"
    environment: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is: scheme, host, port, and a path prefix without a slash at its end.

    The host of a link-local address may have a zone (`fe80::1%eth0`; in a URL also `%25eth0`).
    """

    secure: bool
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an `http://` or `https://` URL.

        Raises:
            UsageError: if it is of another kind, has no host, or carries credentials, a query
                or a fragment.
        """
        shown = repr(url[:_SHOWN_CHARS])
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            raise UsageError(f"not a URL: {shown}") from None
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                f"the URL of {host or 'a source'} carries credentials",
                hint="leave them out: URLs end up in logs. Tokens have settings of their own",
            )
        if not (url.isprintable() and url.isascii()) or " " in url:
            raise UsageError(f"not a URL: {shown}", hint="write it in ASCII, host in punycode")
        if parts.scheme not in {"http", "https"} or not host:
            raise UsageError(
                f"not an http:// or https:// URL: {shown}", hint="such as http://edge:4260"
            )
        if parts.query or parts.fragment:
            raise UsageError(f"the URL of a server has no ? or #: {shown}")
        secure = parts.scheme == "https"
        if port is None:
            port = 443 if secure else 80
        elif port == 0:
            raise UsageError(f"not a port: {shown}")
        if ":" in host:
            host = host.replace("%25", "%", 1)
        return cls(secure, host, port, parts.path.rstrip("/"))

    @property
    def told_host(self) -> str:
        """The host as others know it: without a zone, which is this machine's."""
        return self.host.partition("%")[0]

    @property
    def bare_host(self) -> str:
        """That without a dot at its end: as certificates and NO_PROXY say it."""
        return self.told_host.rstrip(".")

    @property
    def host_text(self) -> str:
        """`told_host` as a URL says it."""
        return _in_url(self.told_host)

    @property
    def authority(self) -> str:
        """`host` or `host:port`, as the Host header says it."""
        return f"{self.host_text}{self._port_text}"

    @property
    def _port_text(self) -> str:
        return "" if self.port == (443 if self.secure else 80) else f":{self.port}"

    def __str__(self) -> str:
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{_in_url(self.host)}{self._port_text}{self.prefix}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and the headers it wants to see."""

    host: str
    port: int
    headers: dict[str, str]
    advice: ClassVar[str] = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"

    def __str__(self) -> str:
        return f"{_in_url(self.host)}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Where to connect."""
        return self.host, self.port


def proxy_for(endpoint: Endpoint) -> Proxy | None:
    """The proxy that the environment names for an endpoint, or None.

    Raises:
        UsageError: if it is not an `http://` proxy.
    """
    if not any(value and key.lower() in _NAMES_PROXY for key, value in os.environ.items()):
        return None  # NO_PROXY alone names none: spares an import as long as a small pull
    if endpoint.host == "localhost" or is_loopback(endpoint.host):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    url = proxies.get("https" if endpoint.secure else "http") or proxies.get("all")
    hosts = {endpoint.bare_host, _in_url(endpoint.bare_host)}  # some write brackets there
    if not url or any(proxy_bypass(f"{host}:{endpoint.port}") for host in hosts):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port, name = parts.port, parts.hostname
    except ValueError:
        name = None
    if not name or parts.scheme != "http":
        raise UsageError(
            "the proxy named by the environment is not an http:// URL",
            hint="set HTTPS_PROXY, HTTP_PROXY or NO_PROXY",
        )
    headers = {}
    if parts.username is not None:
        from base64 import b64encode

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return Proxy(name, port or 80, headers)


@lru_cache(maxsize=4096)  # an edge asks for each block that it sends
def is_loopback(host: str | None) -> bool:
    """Whether a host is a literal address of this machine's own, perhaps as IPv6 writes IPv4's."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def ssl_context(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust for https: the file's authorities alone, or the system's.

    Raises:
        UsageError: if the file cannot be read or holds no certificate.
    """
    import ssl

    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except ssl.SSLError:
        raise UsageError(f"the CA file {ca_file} holds no PEM certificate") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the CA file {ca_file} cannot be read: {why}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
