"""The head of an HTTP/1.1 request, as a device that shares understands it. Sans-IO.

This module must not know what is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError
from icnblocks.limits import KIB
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_BYTES: Final = 8 * KIB
END: Final = b"\r\n\r\n"
_MAX_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked.

    Attributes:
        method: as it came.
        path: without the query.
        query: the values of the query by key; of a key that occurs twice the last.
        length: bytes of body that follow.
        keep: whether the connection may be kept afterwards.
        port: where whoever asks serves in turn, if it says so; not checked.
    """

    method: str
    path: str
    query: Mapping[str, str]
    length: int
    keep: bool
    port: str = ""


def parse_head(raw: bytes) -> Request:
    """Read a head, without the empty line at its end.

    Raises:
        FormatError: if it is none, or announces its body in a way that is not taken here.
    """
    try:
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
    except ValueError:
        raise FormatError("not an HTTP request") from None
    if version not in {"HTTP/1.0", "HTTP/1.1"} or not target.startswith("/"):
        raise FormatError("not an HTTP/1 request")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise FormatError("a malformed header")
        key = name.lower()
        if key in headers and key in {"content-length", "transfer-encoding"}:
            raise FormatError(f"{key} is given twice")
        headers[key] = value.strip()
    if "transfer-encoding" in headers:
        raise FormatError("a body is announced by its length here")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > _MAX_DIGITS:
        raise FormatError("a malformed Content-Length")
    path, _, query = target.partition("?")
    parts = (part.partition("=") for part in query.split("&") if part)
    words = headers.get("connection", "").lower()
    keep = "close" not in words if version == "HTTP/1.1" else "keep-alive" in words
    asked = {key: value for key, _, value in parts}
    return Request(method, path, asked, int(length), keep, headers.get("icn-port", ""))
