"""Who may write. Pure: the request's facts and the time come in.

On loopback anyone (unless a proxy forwards for somebody else, or it is a web page that asks);
elsewhere whoever has a token, or signs with a publisher key that is allowed for the name. Reading
is free.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from icnblocks.client.access import open_access
from icnblocks.client.endpoint import is_loopback
from icnblocks.errors import RefusedError
from icnblocks.manifest.record import fingerprint
from icnblocks.values import dataclass
from icnblocks_daemon.fib import covers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icnblocks.naming import Name

FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via", "X-Forwarded-Host")
"""A request with one of these came through a proxy, so its peer is not who asks."""
_OF_PAGES: Final = ("Origin", "Sec-Fetch-Site")
"""One of these is in each request by which a web page could write: a browser on this machine sends
it, but somebody else wrote the page. A page whose host's name was pointed at this machine says so
too."""
_MAX_CREDENTIAL_CHARS: Final = 2048


@dataclass(frozen=True, slots=True)
class Writer:
    """Somebody who may write.

    Attributes:
        who: for the log.
        prefixes: name prefixes that may be written, or None for every name.
    """

    who: str
    prefixes: tuple[str, ...] | None = None

    def check(self, name: Name) -> None:
        """May this name be written?

        Raises:
            RefusedError: if not.
        """
        if self.prefixes is not None and not any(covers(part, name) for part in self.prefixes):
            raise RefusedError(f"{self.who} may not write {name}")


class Access:
    """The rules of one daemon.

    Args:
        tokens: each allows writing every name; an empty one, nothing.
        publishers: (prefix, fingerprint) pairs: this key may write names under the prefix.
    """

    def __init__(
        self, tokens: tuple[str, ...] = (), publishers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self._tokens = tuple(token.encode() for token in tokens)
        self._publishers = publishers

    def writer(self, peer: str | None, headers: Mapping[str, str], host: str, now: float) -> Writer:
        """Who asks to write, if he may write at all.

        Args:
            peer: the address of the other end; None for a Unix socket.
            headers: of the request, looked up without regard to case.
            host: the Host that the request was sent to; a signature is bound to it.
            now: Unix seconds.

        Raises:
            RefusedError: if he may not; the text says why.
            FormatError: if a credential is none.
        """
        if is_loopback(peer) and not any(name in headers for name in (*FORWARDED, *_OF_PAGES)):
            return Writer("loopback")
        credential = headers.get("Authorization", "")
        scheme, _, value = credential.partition(" ")
        if len(credential) > _MAX_CREDENTIAL_CHARS:
            raise RefusedError("the Authorization header is too long")
        if scheme.lower() == "bearer":
            return self._by_token(value.strip())
        if scheme.lower() == "icn":
            return self._by_key(f"ICN {value.strip()}", host, now)
        raise RefusedError("writing from elsewhere needs a token or an allowed publisher key")

    def _by_token(self, token: str) -> Writer:
        given = token.encode(errors="surrogateescape")
        found = False
        for known in self._tokens:  # all of them, so that the time tells nothing about any
            found |= hmac.compare_digest(given, known)
        if found and token:
            return Writer("a token")
        raise RefusedError("this token is not known here")

    def _by_key(self, credential: str, host: str, now: float) -> Writer:
        publisher, key = open_access(credential, host, now)
        known = fingerprint(key)
        # Whatever a prefix allows, a signature speaks for its own publisher only.
        prefixes = tuple(
            prefix or publisher
            for prefix, allowed in self._publishers
            if allowed == known and prefix.partition("/")[0] in {"", publisher}
        )
        if "/" in publisher or not prefixes:
            raise RefusedError(f"the key {known} of {publisher[:96]} is not allowed to write here")
        return Writer(f"publisher {publisher}", prefixes)


class Quota:
    """Counts requests in work, in all and by client, and refuses those above the limits.

    Args:
        most: in all.
        most_each: of one client.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._each: dict[str, int] = {}
        self.busy = 0
        """Requests in work."""

    def enter(self, client: str) -> str | None:
        """Begin a request, unless a limit is reached; then the limit's name, and nothing begun."""
        if self.busy >= self._most:
            return "total"
        if self._each.get(client, 0) >= self._most_each:
            return "client"
        self.busy += 1
        self._each[client] = self._each.get(client, 0) + 1
        return None

    def leave(self, client: str) -> None:
        """End a request that `enter` began."""
        self.busy -= 1
        self._each[client] -= 1
        if not self._each[client]:
            del self._each[client]
