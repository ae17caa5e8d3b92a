"""`/v1/prefetch`: a plan is put in force, looked at, cancelled. docs/protocol.md has the forms."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from aiohttp import web

from icnblocks.errors import RefusedError
from icnblocks.limits import MAX_REQUEST_BYTES
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.writer import writer_of
from icnblocks_daemon.prefetch_order import PREFETCH_PATH, read_order

if TYPE_CHECKING:
    from icnblocks_daemon.node import Node

_LOG = logging.getLogger(__name__)


class Prefetches:
    """Hands orders to the daemon's prefetch."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [
            web.get(PREFETCH_PATH, self.status),
            web.put(PREFETCH_PATH, self.put),
            web.delete(PREFETCH_PATH, self.cancel),
        ]

    async def status(self, request: web.Request) -> web.StreamResponse:
        """How far the plan in force is."""
        del request
        return self._told()

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Put a plan in force; it is on disk, its names followed, when this answers."""
        who = self._operator(request)
        async with self._node.uploads.bodies.turn(client_of(request)):
            body = await read_body(request, MAX_REQUEST_BYTES)
            order = read_order(body, secrets.token_hex(8))
        await self._node.prefetch.take(order)
        _LOG.info("took a plan", extra={"id": order.ident, "by": who})
        return self._told()

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """End the plan in force, and what it pins; no error if there is none."""
        who = self._operator(request)
        if await self._node.prefetch.cancel():
            _LOG.info("a plan was cancelled", extra={"by": who})
        return self._told()

    def _told(self) -> web.StreamResponse:
        return web.json_response(self._node.prefetch.status(failures=True))

    def _operator(self, request: web.Request) -> str:
        """A plan is about the whole disk, so whoever writes names of his own only may not."""
        writer = writer_of(self._node, request)
        if writer.prefixes is not None:
            raise RefusedError(
                f"{writer.who} may write its own names only; a plan is about the whole store",
                hint="send it from the edge itself, or with one of its tokens",
            )
        return writer.who
