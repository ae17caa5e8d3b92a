"""Errors as HTTP answers: JSON with a stable word, one line, a hint, and whether to retry."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import (
    BusyError,
    ChangedError,
    ConflictError,
    CorruptError,
    Fault,
    FormatError,
    IcnError,
    LoopError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
    TrustError,
    UsageError,
    VersionError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger(__name__)


class TooLargeError(RefusedError):
    """A body or range beyond what the protocol allows."""

    code = "too-large"
    advice = "send it in parts; docs/protocol.md has the limits"


class CodedError(UsageError):
    """A body with a content coding: nobody may pack what is compared byte for byte."""

    advice = "send the body as it is, without Content-Encoding"


class SlowError(IcnError):
    """A body that comes too slowly, or not at all."""

    code, fault, retry = "slow", Fault.NETWORK, True
    advice = "try again; where the network is slow, in smaller parts"


class BusyServerError(BusyError):
    """More requests than this daemon takes at once."""

    advice = "try again after the Retry-After of the answer"


_STATUS: Final[tuple[tuple[type[IcnError], int], ...]] = (
    (TooLargeError, 413),
    (CodedError, 415),
    (SlowError, 408),
    (NotFoundError, 404),
    (TrustError, 409),
    (CorruptError, 422),
    (VersionError, 400),
    (FormatError, 400),
    (UsageError, 400),
    (ChangedError, 410),
    (StorageError, 507),
    (BusyServerError, 429),
    (BusyError, 503),
    (LoopError, 508),
    (SourceError, 502),
    (RefusedError, 403),
    (ConflictError, 409),
)


def problem(error: IcnError, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer that tells a client of an error."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _answer(status, error.code, str(error), error.hint, error.retry, headers)


def http_problem(error: web.HTTPException) -> web.Response:
    """The same for what the HTTP layer refuses (no such path, method or header)."""
    code = "not-found" if error.status == 404 else "usage" if error.status < 500 else "error"
    kept = ("Allow", "Content-Range")
    headers = {key: error.headers[key] for key in kept if key in error.headers}
    return _answer(error.status, code, error.reason, "", False, headers)


def internal_problem() -> web.Response:
    """The answer to a request that met a mistake of this program; the log has it."""
    return _answer(500, "error", "an internal error; the daemon's log has it", "", True, None)


def _answer(
    status: int,
    code: str,
    message: str,
    hint: str,
    retry: bool,
    headers: Mapping[str, str] | None,
) -> web.Response:
    body = {"error": code, "message": message, "hint": hint, "retry": retry}
    return web.json_response(body, status=status, headers=headers)
