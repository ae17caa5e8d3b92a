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
    from aiohttp.web_server import Server

    from icnblocks_daemon.floods import Flood

_LOG = logging.getLogger(__name__)


class Reader(web.RequestHandler):
    """One connection. Bodies are left as they come: see read_body.

    Args:
        server: whose.
        malformed: counts what is no request, over all connections.
    """

    __slots__ = ("_malformed",)

    def __init__(self, server: Server, malformed: Flood) -> None:
        settings: dict[str, Any] = {**server._kwargs, "auto_decompress": False}
        super().__init__(server, loop=server._loop, **settings)
        self._malformed = malformed

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
