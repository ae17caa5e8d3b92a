"""What an upstream's failure means: to those who wait, and for the upstream. Pure tables."""

from __future__ import annotations

from typing import Final

from icnblocks.client.answers import NackError
from icnblocks.errors import (
    BusyError,
    ChangedError,
    CorruptError,
    IcnError,
    LoopError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from icnblocks.wire.frames import Reason
from icnblocks_daemon.strategies import Failure

_REASONS: Final[tuple[tuple[type[IcnError], Reason], ...]] = (
    (NotFoundError, Reason.NOT_FOUND),
    (CorruptError, Reason.CORRUPT),
    (ChangedError, Reason.CHANGED),
    (StorageError, Reason.NO_SPACE),
    (BusyError, Reason.BUSY),
    (LoopError, Reason.LOOP),
    (RefusedError, Reason.REFUSED),
)
_PASSED_ON: Final = frozenset({Reason.CHANGED, Reason.LENGTH, Reason.REFUSED, Reason.BUSY})
"""What an upstream says in a Nack holds here too: it answered as it should."""
FAILURES: Final = {Reason.UPSTREAM: Failure.BROKEN, Reason.CORRUPT: Failure.CORRUPT}
"""Reasons that are failures of the upstream; any other is a proper refusal."""


def failure_of(error: IcnError) -> Failure:
    """What it is that an upstream did wrong; for those errors that are its failures."""
    if isinstance(error, CorruptError):
        return Failure.CORRUPT
    return Failure.BUSY if isinstance(error, BusyError) else Failure.BROKEN


def reason_of(error: IcnError) -> Reason:
    """How an upstream's failure is told to those who wait."""
    if isinstance(error, NackError) and error.reason in _PASSED_ON:
        return error.reason
    for kind, reason in _REASONS:
        if isinstance(error, kind) or (kind is BusyError and isinstance(error.__cause__, kind)):
            return reason
    return Reason.UPSTREAM
