"""Reading a request's body, never more than is allowed for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from icnblocks.errors import SourceError
from icnblocks_daemon.http.problems import TooLargeError

if TYPE_CHECKING:
    from aiohttp import web

_STALL_S: Final = 30.0


async def read_body(request: web.BaseRequest, most: int) -> bytes:
    """The body, of at most `most` bytes.

    Raises:
        TooLargeError: if it is longer; the rest is not read.
        SourceError: if nothing more of it came for half a minute.
    """
    announced = request.content_length
    if announced is not None and announced > most:
        raise TooLargeError(f"a body of {announced} bytes; at most {most} are taken")
    data = bytearray()
    try:
        while True:
            async with asyncio.timeout(_STALL_S):
                piece = await request.content.readany()
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > most:
                raise TooLargeError(f"a body of more than {most} bytes")
    except TimeoutError:
        raise SourceError("the request's body stalled") from None
