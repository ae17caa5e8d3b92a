"""What every answer says of who speaks, in which version, and whether it may be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.wire.headers import VERSION_HEADER

if TYPE_CHECKING:
    from aiohttp import web

SPOKEN: Final = "1"


def mark(response: web.StreamResponse) -> None:
    """Write it on an answer."""
    response.headers[VERSION_HEADER] = SPOKEN
    response.headers["Server"] = "icn-edge"
    # HTTP lets caches keep what says nothing, a 404 too.
    response.headers.setdefault("Cache-Control", "no-store")
