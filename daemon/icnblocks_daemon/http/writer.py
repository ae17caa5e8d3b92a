"""Who sent a request that writes, if he may: one rule for all endpoints that do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11

from icnblocks.errors import FormatError, RefusedError

if TYPE_CHECKING:
    from aiohttp import web

    from icnblocks_daemon.access import Writer
    from icnblocks_daemon.node import Node


def writer_of(node: Node, request: web.Request) -> Writer:
    """The writer who sent this.

    Raises:
        RefusedError: if he may not write.
        FormatError: if his credential is none.
    """
    peer = request.transport.get_extra_info("peername") if request.transport else None
    address = peer[0] if isinstance(peer, tuple) else None
    if request.version < HttpVersion11:
        address = None  # nginx before 1.29.7, which says nothing else of itself by default
    return node.access.writer(address, request.headers, request.host, time.time())


def may_write(node: Node, request: web.Request) -> bool:
    """Whether `writer_of` has anybody: for what all may ask, but writers have more of."""
    try:
        writer_of(node, request)
    except (FormatError, RefusedError):
        return False
    return True
