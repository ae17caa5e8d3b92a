"""Health, metrics and status: for whoever runs the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from icnblocks_daemon.metrics import CONTENT_TYPE
from icnblocks_daemon.node_report import status

if TYPE_CHECKING:
    from icnblocks_daemon.node import Node


class Admin:
    """Says how the daemon is doing. Nothing here is secret, nor changes anything."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [
            web.get("/healthz", self.health),
            web.get("/metrics", self.metrics),
            web.get("/v1/status", self.status),
        ]

    async def health(self, request: web.Request) -> web.StreamResponse:
        """200 while requests are answered; 503 while stopping."""
        del request
        if self._node.stopping:
            return web.Response(status=503, text="stopping\n")
        return web.Response(text="ok\n")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Prometheus text."""
        del request
        body = self._node.metrics.render()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def status(self, request: web.Request) -> web.StreamResponse:
        """What docs/operations.md describes, as JSON."""
        del request
        return web.json_response(status(self._node))
