"""Answers that are made whole, on their way: while their request is at work, and with deadlines.

aiohttp would write them after the request has ended, all at once and for as long as it takes: a
reader that takes nothing would hold them in memory, counted by no limit. This module must not
know what an answer says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.limits import KIB
from icnblocks_daemon.http.outlet import CutOffError, Outlet

if TYPE_CHECKING:
    from icnblocks_daemon.config import Config

_SMALL: Final = 16 * KIB
"""An answer up to here goes with its head, in one write."""


async def deliver(
    request: web.Request, response: web.Response, config: Config
) -> web.StreamResponse:
    """Send an answer, with the time for it that a block of its length has.

    Returns:
        What was sent: for a large answer not `response`, as aiohttp keeps it, and with it a body,
        until the next request of the connection.

    Raises:
        CutOffError: if the reader stalled or left; its connection is closed.
    """
    body = response.body
    try:
        if isinstance(body, bytes) and len(body) > _SMALL and request.method != "HEAD":
            return await _in_pieces(request, response, body, config)
        await _at_once(request, response, config)
    except ConnectionError as error:
        raise CutOffError("gone", f"the client left: {error.strerror or error}") from None
    return response


async def _at_once(request: web.Request, response: web.Response, config: Config) -> None:
    try:
        async with asyncio.timeout(config.send_grace + _SMALL / config.send_floor):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise CutOffError("stalled", "a reader took nothing of an answer") from None


async def _in_pieces(
    request: web.Request, whole: web.Response, body: bytes, config: Config
) -> web.StreamResponse:
    response = web.StreamResponse(status=whole.status, reason=whole.reason, headers=whole.headers)
    response.content_length = len(body)
    if whole.keep_alive is False:
        response.force_close()
    writer = await response.prepare(request)
    if writer is not None:
        outlet = Outlet(
            request, writer, chunked=False, floor=config.send_floor, grace_s=config.send_grace
        )
        await outlet.send_bytes(body)
    return response
