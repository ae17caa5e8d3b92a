"""The application: all endpoints behind one set of manners (versions, limits, errors, figures)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import BusyError, IcnError, StorageError, VersionError
from icnblocks.wire.headers import VERSION_HEADER
from icnblocks_daemon.access import Quota
from icnblocks_daemon.http.admin import Admin
from icnblocks_daemon.http.blocks import Blocks
from icnblocks_daemon.http.bundles import Bundles
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.connections import Connections
from icnblocks_daemon.http.deliver import deliver
from icnblocks_daemon.http.have import Have
from icnblocks_daemon.http.marks import SPOKEN, mark
from icnblocks_daemon.http.names import Names
from icnblocks_daemon.http.neighbours import NeighbourFace
from icnblocks_daemon.http.outlet import CutOffError
from icnblocks_daemon.http.prefetches import Prefetches
from icnblocks_daemon.http.problems import (
    BusyServerError,
    http_problem,
    internal_problem,
    problem,
)
from icnblocks_daemon.http.writes import Writes

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from icnblocks_daemon.node import Node

_LOG = logging.getLogger(__name__)
_RETRY_AFTER: Final = {"Retry-After": "1"}
_CLIENT_LEFT: Final = 499
"""What proxies write into their logs for this."""
_UNCOUNTED: Final = frozenset({"/healthz", "/metrics", "/v1/status"})
"""Answered however busy the daemon is: somebody wants to know why."""


def make_app(node: Node, connections: Connections | None = None) -> web.Application:
    """The HTTP face of a node; `connections` is told which of them are at work."""
    manners = _Manners(node, connections or Connections(node.config.max_connections, node.clock))

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await manners.handle(request, handler)

    app = web.Application(middlewares=[handle])
    app.on_response_prepare.append(manners.mark)
    reads = (Blocks(node), Bundles(node), Names(node), Have(node), Admin(node))
    for face in (*reads, NeighbourFace(node), Writes(node), Prefetches(node)):
        app.add_routes(face.routes())
    return app


class _Manners:
    """What holds for every request."""

    def __init__(self, node: Node, connections: Connections) -> None:
        self._node = node
        self._connections = connections
        self._quota = Quota(node.config.max_requests, node.config.max_client_requests)

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say on every answer who speaks, and which version."""
        del request
        mark(response)

    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, within the limits, and count it."""
        began = time.monotonic()
        resource = request.match_info.route.resource
        endpoint = resource.canonical if resource is not None else "none"
        metrics = self._node.metrics
        with self._connections.at_work(request.transport):
            try:
                response = await self._limited(request, handler, endpoint)
            except asyncio.CancelledError as cancelled:
                # At its end the daemon itself cuts off what has not ended in time.
                if request.transport is None and not self._node.stopping:
                    metrics.cut("an answer", "gone", cancelled, request.remote)
                    metrics.requests.labels(f"{request.method} {endpoint}", _CLIENT_LEFT).inc()
                raise
        metrics.requests.labels(f"{request.method} {endpoint}", response.status).inc()
        metrics.request_seconds.labels(endpoint).observe(time.monotonic() - began)
        return response

    async def _limited(
        self, request: web.Request, handler: Handler, endpoint: str
    ) -> web.StreamResponse:
        if endpoint in _UNCOUNTED:
            return await self._delivered(request, await self._answered(request, handler))
        client = client_of(request)
        limit = self._quota.enter(client)
        if limit is not None:
            self._node.metrics.limited.labels(limit).inc()
            error = BusyServerError("too many requests at once")
            return await self._delivered(request, _closing(request, problem(error, _RETRY_AFTER)))
        self._node.metrics.in_flight.inc()
        try:
            return await self._delivered(request, await self._answered(request, handler))
        finally:
            self._quota.leave(client)
            self._node.metrics.in_flight.dec()

    async def _delivered(
        self, request: web.Request, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Send what was answered, unless it sent itself: until then the request is at work."""
        if not isinstance(response, web.Response) or request.transport is None:
            return response
        try:
            return await deliver(request, response, self._node.config)
        except CutOffError as cut:
            self._node.metrics.cut("an answer", cut.cause, cut, request.remote)
            return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_version(request)
            return await handler(request)
        except IcnError as error:
            later = _RETRY_AFTER if isinstance(error, BusyError) else None
            return _closing(request, problem(error, later))
        except web.HTTPException as error:
            return _closing(request, http_problem(error))
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            # The client left while being answered: nobody hears this, but it is counted as what
            # it is, where an exception would be logged as a fault of ours.
            response = web.Response(status=_CLIENT_LEFT)
            response.force_close()
            return response
        except OSError as error:
            _LOG.error("the disk refused: %s", error, extra={"path": request.path})
            return _closing(request, problem(StorageError(f"{error.strerror}")))
        except Exception:
            _LOG.exception("a request failed", extra={"path": request.path})
            return _closing(request, internal_problem())


def _check_version(request: web.Request) -> None:
    said = request.headers.get(VERSION_HEADER)
    if said is not None and said.strip().partition(".")[0] != SPOKEN:
        raise VersionError(f"protocol version {said[:20]!r} is not spoken here, only {SPOKEN}")


def _closing(request: web.Request, response: web.Response) -> web.Response:
    """An error answer; the connection is closed if a body was not read that would follow."""
    if not request.content.is_eof() and request.can_read_body:
        response.force_close()
    return response
