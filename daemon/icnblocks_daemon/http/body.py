"""Reading a request's body, never more than is allowed for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from icnblocks.errors import SourceError
from icnblocks_daemon.http.problems import TooLargeError

if TYPE_CHECKING:
    from aiohttp import web

_STALL_S: Final = 30.0
_FLOOR: Final = 4096
"""Bytes a second at which a body comes at least, on top of that time."""


async def read_body(request: web.BaseRequest, most: int) -> bytes:
    """The body, of at most `most` bytes.

    Raises:
        TooLargeError: if it is longer; the rest is not read.
        SourceError: if it comes too slowly, or stalls: its sender holds a place that others want.
    """
    announced = request.content_length
    if announced is not None and announced > most:
        raise TooLargeError(f"a body of {announced} bytes; at most {most} are taken")
    data = bytearray()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        while True:
            async with asyncio.timeout_at(began + _STALL_S + len(data) / _FLOOR):
                piece = await request.content.readany()
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > most:
                raise TooLargeError(f"a body of more than {most} bytes")
    except TimeoutError:
        raise SourceError("the request's body stalled") from None
