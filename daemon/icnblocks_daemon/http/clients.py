"""Who asks: one rule for all limits and turns of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icnblocks_daemon.addresses import counted_as

if TYPE_CHECKING:
    from aiohttp import web


def client_of(request: web.Request) -> str:
    """The client that a request counts for; "?" if nobody knows."""
    local = request.transport.get_extra_info("sockname") if request.transport else None
    return counted_as(request.remote or "?", local[0] if isinstance(local, tuple) else "")
