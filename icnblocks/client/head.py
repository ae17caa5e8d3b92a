"""Heads of HTTP/1.1 messages: a request's to send, an answer's to understand (RFC 9112). Pure.

The standard library reads heads as e-mail, whose modules are long to import
(docs/performance-log.md). This module must not know what a body means, and must not read one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_FIELDS: Final = 200
_NO_BODY: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of an answer says.

    Attributes:
        status: three digits.
        headers: by name in lower case; the values of repeated ones joined by commas.
        chunked: the body comes in chunks.
        length: of the body; None if that is not told.
        keep: whether another request may follow on the connection.
    """

    status: int
    headers: Mapping[str, str]
    chunked: bool
    length: int | None
    keep: bool


def encode_head(
    method: str, target: str, host: str, headers: Mapping[str, str], length: int | None
) -> bytes:
    """The head of a request.

    Args:
        method: of HTTP.
        target: path, whole URL or authority.
        host: value of the Host header.
        headers: the others.
        length: of the body; None where there is none.

    Raises:
        UsageError: if something in it would break the head, such as a token with a line end.
    """
    fields = {"Host": host, "Accept-Encoding": "identity", **headers}
    if length is not None:
        fields["Content-Length"] = str(length)
    for name, value in fields.items():
        if not (value.isascii() and value.isprintable()):
            raise UsageError(f"the value of the header {name} has characters that HTTP forbids")
    if not (target.isascii() and target.isprintable()) or " " in target:
        raise UsageError("a path has characters that HTTP forbids")
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def find_end(received: bytes) -> int:
    """Where a head ends, after its empty line; 0 while that has not come."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := received.find(mark)) >= 0]
    return min(ends, default=0)


def decode_head(head: bytes, method: str) -> Head:
    """Understand the head of an answer.

    Args:
        head: up to its empty line.
        method: of the request: an answer to HEAD has no body, one to CONNECT neither.

    Raises:
        FormatError: if it is none of HTTP/1, or says no clear end of its body.
    """
    first, *lines = head.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in {"HTTP/1.1", "HTTP/1.0"} or not (status.isdecimal() and status.isascii()):
        raise FormatError("the answer does not begin as one of HTTP/1")
    if len(lines) > _MAX_FIELDS:
        raise FormatError("the answer has too many headers")
    headers = _fields(lines)
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    if "transfer-encoding" in headers and not chunked:
        raise FormatError("the answer is encoded in a way that nobody asked for")
    length = None if chunked else _length(headers.get("content-length"))
    if method in {"HEAD", "CONNECT"} or int(status) in _NO_BODY or status[0] == "1":
        chunked, length = False, 0
    wishes = {word.strip() for word in headers.get("connection", "").lower().split(",")}
    lasting = "close" not in wishes if version == "HTTP/1.1" else "keep-alive" in wishes
    return Head(int(status), headers, chunked, length, lasting and (chunked or length is not None))


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise FormatError("the answer has a malformed header")
        fields[name] = f"{fields[name]}, {value.strip()}" if name in fields else value.strip()
    return fields


def _length(text: str | None) -> int | None:
    if text is None:
        return None
    said = {part.strip() for part in text.split(",")}
    value = said.pop()
    if said or not (value.isascii() and value.isdecimal()) or len(value) > 18:
        raise FormatError("the answer's length is not a number")
    return int(value)
