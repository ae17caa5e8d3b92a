"""What a server's answer means: its errors as ours, and requests to come back later.

This module must not do I/O beyond reading the short body of an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from icnblocks import errors
from icnblocks.client.endpoint import Proxy
from icnblocks.errors import (
    BusyError,
    ChangedError,
    CorruptError,
    ForeignError,
    IcnError,
    IncompleteError,
    LoopError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
    TrustError,
    UsageError,
)
from icnblocks.limits import MAX_ERROR_BYTES, MAX_NACK_TEXT_BYTES
from icnblocks.wire.frames import Reason
from icnblocks.wire.headers import VERSION_HEADER

if TYPE_CHECKING:
    from icnblocks.client.http import Answer
    from icnblocks.naming import Digest

_BY_STATUS: Final[dict[int, type[IcnError]]] = {
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    409: errors.ConflictError,
    410: ChangedError,
    413: RefusedError,
    507: errors.StorageError,
}
_PROXY_ASKS: Final = 407
_LATER: Final = frozenset({429, 503})
_MAX_AFTER_S: Final = 3600.0


class ThrottledError(BusyError):
    """The other side asks to come back later.

    Attributes:
        after_s: seconds to wait at least; 0 when it did not say.
    """

    fault = errors.Fault.SOURCE
    advice = "the source is busy: try again later, or name another one with --from (sources=)"

    def __init__(self, message: str, *, after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s


_THEIRS: Final[dict[type[IcnError], type[IcnError]]] = {
    TrustError: RefusedError,
    UsageError: RefusedError,
    StorageError: SourceError,
    ChangedError: SourceError,
}
"""What a server says of its own disk and trust must not read as if it were said of ours."""


def check_answer(answer: Answer, what: str) -> Answer:
    """Pass on an answer of success; an error as the IcnError that it means.

    Args:
        answer: its body is read when it is an error.
        what: what was asked, and whom, for the message.

    Raises:
        ThrottledError: for 429 and 503.
        IcnError: the class that the server names, else one that fits the status.
    """
    if 200 <= answer.status < 300:
        return answer
    speaks_icn = answer.headers.get(VERSION_HEADER.lower()) is not None
    told = _told(answer)
    message, hint = one_line(told.get("message")), one_line(told.get("hint"))
    text = f"{what}: {message or f'status {answer.status}'}"
    if answer.status in _LATER:
        after_s = _after_s(answer.headers.get("retry-after"))
        raise ThrottledError(text, after_s=after_s)  # its hint is to whoever runs it
    if 300 <= answer.status < 400:
        place = one_line(answer.headers.get("location")) or "another place"
        base, ours, _ = place.partition("/v1/")  # what follows is what was asked for
        place = base if ours and "?" not in base else place
        raise SourceError(f"{what}: redirected to {place}", hint="name that as the source instead")
    if answer.status == _PROXY_ASKS:
        raise SourceError(f"{text}, by a proxy that wants to know who asks", hint=Proxy.advice)
    kind = _by_code().get(str(told.get("error"))) or _BY_STATUS.get(answer.status, SourceError)
    kind = _THEIRS.get(kind, kind)
    if kind is NotFoundError and not speaks_icn:
        raise SourceError(
            f"{text}, and not from an icnblocks server", hint="check the URL of the source"
        )
    if kind is RefusedError and not speaks_icn:
        hint = "what stands before the server refuses it, such as a proxy: ask its operator"
    raise kind(text, hint=hint)


def _told(answer: Answer) -> dict[str, Any]:
    """The JSON object of an error, or nothing."""
    try:
        value = json.loads(answer.read(MAX_ERROR_BYTES))
    except (IcnError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def one_line(text: object) -> str:
    """What a server says, fit for a terminal and a log: one line, no control characters."""
    if not isinstance(text, str):
        return ""
    text = " ".join(text[: 4 * MAX_NACK_TEXT_BYTES].split())[:MAX_NACK_TEXT_BYTES]
    return "".join(char if char.isprintable() else "?" for char in text)


def _after_s(text: str | None) -> float:
    """Retry-After in seconds; a date is as good as nothing said (clocks differ)."""
    if text is None or not text.strip().isdecimal() or len(text) > 10:
        return 0.0
    return min(float(text), _MAX_AFTER_S)


def _by_code() -> dict[str, type[IcnError]]:
    """The error classes that a server may name: all but the programs' own faults."""
    found: dict[str, type[IcnError]] = {}
    todo: list[type[IcnError]] = [IcnError]
    while todo:
        kind = todo.pop()
        if kind.__module__ == errors.__name__ and kind is not IcnError:
            found[kind.code] = kind
        todo += kind.__subclasses__()
    return found


def no_http(where: str, why: str) -> ForeignError:
    """The error for what cannot be an answer at all."""
    return ForeignError(f"{where} does not speak HTTP: {why}")


def not_icn(where: str) -> ForeignError:
    """The error for an answer of success that makes no sense."""
    return ForeignError(f"{where} does not answer as an icnblocks server")


class NackError(IncompleteError):
    """A source refused a block for this reason."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def nack_error(name: str, digest: Digest, reason: Reason, text: str) -> IcnError:
    """The error for a want that the source `name` refused in a Nack."""
    told = f": {text}" if text else ""
    if reason is Reason.NOT_FOUND:
        return NotFoundError(f"block {digest} is not at {name}{told}")
    if reason is Reason.CORRUPT:
        return CorruptError(f"block {digest} is corrupt at {name}{told}")
    if reason is Reason.LOOP:
        return LoopError(f"block {digest} is not at {name}, which is part of a loop{told}")
    word = reason.name.lower().replace("_", " ")
    return NackError(f"block {digest} was refused by {name} ({word}){told}", reason)
