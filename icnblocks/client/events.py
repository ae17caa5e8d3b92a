"""What the fetch engine says about itself: events for a listener, counters, and status.

A progress bar, JSON lines and metrics are listeners. Events come on engine threads, in order
for each source; a listener must be quick and must not call the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TypeAlias

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.client.states import Health, SourceState
    from icnblocks.errors import IcnError
    from icnblocks.naming import Digest


class Waste(StrEnum):
    """Why payload bytes came that were of no use (and came, or will come, again)."""

    CORRUPT = "corrupt"
    CUT = "cut"
    CANCELLED = "cancelled"
    STOLEN = "stolen"  # another source was asked for it as well, since this one was slow


@dataclass(frozen=True, slots=True)
class Received:
    """A block was verified and accepted; `length` are its bytes."""

    source: str
    digest: Digest
    length: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No source can give a block."""

    digest: Digest
    error: IcnError


@dataclass(frozen=True, slots=True)
class Wasted:
    """`length` bytes of payload came in vain, all of one block.

    `digest` is None for what came of a block when its connection ended.
    """

    source: str
    cause: Waste
    length: int
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """A request failed; `wants` blocks of it were given back to be asked for again."""

    source: str
    error: IcnError
    wants: int


@dataclass(frozen=True, slots=True)
class Demoted:
    """A source is left alone for `wait_s` seconds."""

    source: str
    error: IcnError
    wait_s: float


Event: TypeAlias = Received | Refused | Wasted | Retried | Demoted
Listener: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source is doing, for status pages.

    Attributes:
        url: which.
        health: good, demoted or given up.
        wait_s: seconds until it is asked again; 0 when it may be.
        rate: bytes of blocks a second, over the last seconds.
        received_bytes: payload of blocks that were accepted from it.
        failures: failed requests and corrupt blocks, ever.
        busy: bundles it is working on.
        last_error: the last failure, in one line, or None.
    """

    url: str
    health: Health
    wait_s: float
    rate: float
    received_bytes: int
    failures: int
    busy: int
    last_error: str | None

    @classmethod
    def of(cls, state: SourceState, received_bytes: int, now: float) -> Self:
        """By what is known of a source."""
        return cls(
            state.name,
            state.health(now),
            max(state.retry_at - now, 0.0),
            state.rate.rate(now),
            received_bytes,
            state.failures_total,
            state.busy,
            None if state.last_error is None else str(state.last_error),
        )


@dataclass(frozen=True, slots=True)
class Counters:
    """Payload bytes of an engine since it began.

    Attributes:
        received: of blocks that were accepted, each once.
        wasted: in vain, by cause.
        blocks: how many were accepted.
        refused: how many wants no source could give.
    """

    received: int
    wasted: dict[Waste, int]
    blocks: int
    refused: int
