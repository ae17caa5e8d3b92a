"""Reads requests off a connection as aiohttp does; what is none gets an answer of our own form."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from icnblocks.errors import FormatError
from icnblocks_daemon.http.marks import mark
from icnblocks_daemon.http.problems import problem

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable

    from aiohttp.web_server import Server

    from icnblocks_daemon.floods import Flood

_LOG = logging.getLogger(__name__)


class Reader(web.RequestHandler):
    """One connection. Bodies are left as they come: see read_body.

    Args:
        server: whose.
        malformed: counts what is no request, over all connections.
        grace_s: seconds for what was written, when it is closed; then it is dropped.
    """

    __slots__ = ("_dropping", "_grace_s", "_malformed")

    def __init__(self, server: Server, malformed: Flood, grace_s: Callable[[], float]) -> None:
        settings: dict[str, Any] = {**server._kwargs, "auto_decompress": False}
        super().__init__(server, loop=server._loop, **settings)
        self._malformed = malformed
        self._grace_s = grace_s
        self._dropping: TimerHandle | None = None

    async def start(self) -> None:
        """Answer requests until it is closed, which a reader that takes nothing cannot put off."""
        transport = self.transport
        try:
            await super().start()
        finally:
            # What closes a transport waits until all was taken, for ever if need be.
            if transport is not None and self._manager is not None:
                self._dropping = self._loop.call_later(self._grace_s(), transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed: nothing of it is left to be dropped."""
        super().connection_lost(exc)
        if self._dropping is not None:
            self._dropping.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be read; nothing of it is repeated to anybody."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        why = (message or "").partition("\n")[0].partition(":")[0].rstrip(".")
        count = self._malformed.due()
        if count:
            _LOG.warning("no HTTP: %s", why, extra={"peer": request.remote, "times": count})
        error = FormatError(
            f"this is not HTTP as it should be: {why}",
            hint="see what the client, or a proxy on the way, sends",
        )
        response = problem(error)
        mark(response)
        response.force_close()
        return response
