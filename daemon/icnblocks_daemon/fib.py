"""The forwarding table: which upstreams may be asked for a name. Pure.

A prefix is nothing (every name), a publisher, or publisher/model; the longest one that matches
wins, and only its upstreams are asked. This module must not know whether an upstream is well:
the strategy does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks.client.endpoint import Endpoint
from icnblocks.errors import UsageError
from icnblocks.naming import Name

if TYPE_CHECKING:
    from collections.abc import Iterable

Route = tuple[str, ...]
"""URLs of upstreams, in the order of the configuration; empty: this daemon is the origin."""

_HINT = "an upstream is [PREFIX=]URL, with PREFIX a publisher or publisher/model"


def parse_upstream(text: str) -> tuple[str, str]:
    """Read `[PREFIX=]URL` into (prefix, URL); the prefix of a plain URL is empty.

    Raises:
        UsageError: for anything else.
    """
    prefix, equals, url = text.partition("=")
    if not equals or "://" in prefix:
        prefix, url = "", text
    url = url.strip()
    try:
        _check_url(url)
        return check_prefix(prefix.strip()), str(Endpoint.parse(url))
    except UsageError as error:
        raise UsageError(f"not an upstream: {error}", hint=_HINT) from None


def _check_url(url: str) -> None:
    """Say what is wrong with the usual mistakes; everything else is left to Endpoint."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme.lower() not in {"http", "https"}:
        shown = "" if "@" in url else f": {url[:120]!r}"
        raise UsageError(f"http:// or https:// is expected{shown}")
    port = rest.partition("/")[0].rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise UsageError(f"the port is a number from 1 to 65535, not {port[:20]!r}")


def check_prefix(prefix: str) -> str:
    """A name prefix as it is: nothing, a publisher, or publisher/model.

    Raises:
        UsageError: if it cannot be the beginning of a name.
    """
    if prefix:
        publisher, slash, model = prefix.partition("/")
        Name(publisher, model if slash else "x")
    return prefix


def covers(prefix: str, name: Name) -> bool:
    """Whether `name` lies under `prefix`."""
    return prefix in {"", name.publisher, name.repo}


class Fib:
    """Upstreams by name prefix.

    Args:
        entries: (prefix, URL) pairs, best upstream of a prefix first.
    """

    __slots__ = ("_all", "_routes")

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        routes: dict[str, list[str]] = {}
        for prefix, url in entries:
            urls = routes.setdefault(prefix, [])
            if url not in urls:
                urls.append(url)
        self._routes = {prefix: tuple(urls) for prefix, urls in routes.items()}
        ordered = [url for prefix in sorted(self._routes) for url in self._routes[prefix]]
        self._all = tuple(dict.fromkeys(ordered))

    @property
    def upstreams(self) -> Route:
        """Every upstream once."""
        return self._all

    @property
    def prefixes(self) -> dict[str, Route]:
        """The table itself."""
        return dict(self._routes)

    @property
    def has_default(self) -> bool:
        """Every name has an upstream, so this daemon is the origin of none."""
        return "" in self._routes

    def route(self, name: Name | None) -> Route:
        """The upstreams for a name; without a name all of them, those for every name first."""
        if name is None:
            return self._all
        for prefix in (name.repo, name.publisher, ""):
            if prefix in self._routes:
                return self._routes[prefix]
        return ()
