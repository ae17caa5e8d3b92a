"""Reading a request's body, never more than is allowed for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp.web import RequestPayloadError

from icnblocks.errors import FormatError
from icnblocks_daemon.http.problems import CodedError, SlowError, TooLargeError

if TYPE_CHECKING:
    from aiohttp import web

_STALL_S: Final = 30.0
_FLOOR: Final = 4096
"""Bytes a second at which a body comes at least, on top of that time."""


async def read_body(request: web.BaseRequest, most: int) -> bytes:
    """The body, of at most `most` bytes.

    Raises:
        CodedError: if it has a content coding; nothing is read.
        TooLargeError: if it is longer; the rest is not read.
        FormatError: if its chunks are malformed.
        SlowError: if it comes too slowly, or stalls: its sender holds a place that others want.
    """
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding != "identity":
        raise CodedError("a body with a content coding is not taken")
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
        raise SlowError("the request's body stalled") from None
    except RequestPayloadError:
        raise FormatError("the request's body is not as its head says") from None
