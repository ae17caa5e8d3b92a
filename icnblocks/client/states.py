"""What is known of a source: how it is doing, since when, and how patient we are with it.

Pure: time and chance are arguments. This module must not know what is asked of a source.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from icnblocks.client.meter import Meter
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.errors import IcnError

_MOST_DOUBLINGS: Final = 30


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How patient to be.

    Attributes:
        retry_s: seconds of failures without one block between, until a source is given up.
        busy_s: the same for a source that says that it is busy, until it would be asked again.
        first_s: the first demotion; each further one is twice as long.
        longest_s: no demotion is longer, unless the source asks for it.
        passes_on: a refusal that may pass ends a want all the same, unless the source is busy: so
            does an edge, since those who wait for the block will ask again. If each daemon on the
            way did, too, they would ask many times what they do once; and what one model lacks
            upstream would hold up the others.
        hint_lanes: bundles under one hint that a source works on at once; None for no limit. A
            daemon may be waiting for what one model lacks there, while it has others.
    """

    retry_s: float = 60.0
    busy_s: float = 600.0
    first_s: float = 0.25
    longest_s: float = 15.0
    passes_on: bool = False
    hint_lanes: int | None = None


class Health(Enum):
    """How a source is doing."""

    GOOD = auto()
    DEMOTED = auto()
    GIVEN_UP = auto()


@dataclass(slots=True)
class SourceState:
    """What is known of a source; read it for status, change nothing.

    Attributes:
        name: for messages.
        lanes: how many bundles it may work on at once.
        busy: how many it is working on.
        failures: in a row; 0 is healthy.
        failures_total: ever.
        corrupts: corrupt blocks ever; they are not forgotten.
        vain: blocks that it gave wrong once more when it was told, without a good one between.
        retry_at: demoted until then.
        failing_since: time of the first failure in the row; that it is busy ends a row.
        busy_since: when it first said that it was busy, without a block since.
        given_up: it failed for too long, or in a way that does not pass.
        good: it has given a block or a proper refusal.
        late: what it had begun was taken from it, and no block came since.
        last_error: the last failure.
        lane_rate: bytes of blocks a second, of one lane; None until a bundle has ended.
        held_since: since when it has been leaving the last wants to faster sources.
        rate: bytes of blocks a second, lately, of all its lanes together.
    """

    name: str
    lanes: int
    busy: int = 0
    failures: int = 0
    failures_total: int = 0
    corrupts: int = 0
    vain: int = 0
    retry_at: float = 0.0
    failing_since: float | None = None
    busy_since: float | None = None
    given_up: bool = False
    good: bool = False
    late: bool = False
    last_error: IcnError | None = None
    lane_rate: float | None = None
    held_since: float | None = None
    rate: Meter = field(default_factory=Meter)

    def health(self, now: float) -> Health:
        """How it is doing at `now`."""
        if self.given_up:
            return Health.GIVEN_UP
        return Health.DEMOTED if self.retry_at > now else Health.GOOD

    def hopeless(self, now: float) -> bool:
        """Nothing is to be expected of it: given up, and not yet time for the next probe."""
        return self.given_up and self.retry_at > now

    def well(self) -> None:
        """It gave a block or a proper refusal: what went wrong before is over."""
        self.failures = 0
        self.failing_since = self.busy_since = None
        self.given_up = False
        self.good = True

    def setback(
        self, error: IcnError, now: float, options: RetryOptions, chance: float,
        *, busy: bool = False, fatal: bool = True, after_s: float = 0.0, doublings: int = 0,
    ) -> None:  # fmt: skip
        """Demote it; only once for what happens while it is demoted already (its other lanes).

        Args:
            error: what happened.
            now: the time.
            options: how patient to be.
            chance: from 0 to 1, for jitter.
            busy: it said that it is busy: it is there, so that it has not failed all the time.
            fatal: whether it is given up when this has gone on for as long as `options` say.
            after_s: it asked to be left alone for so long.
            doublings: the demotion is at least `first_s` so often doubled.
        """
        self.last_error = error
        self.failures_total += 1
        if busy:
            since = self.busy_since = now if self.busy_since is None else self.busy_since
            self.failing_since = None
        else:
            since = self.failing_since = now if self.failing_since is None else self.failing_since
        if self.retry_at <= now or not self.failures:
            doublings = min(max(doublings, self.failures), _MOST_DOUBLINGS)
            wait = min(options.first_s * 2.0**doublings, options.longest_s)
            self.retry_at = max(self.retry_at, now + wait * (0.5 + 0.5 * chance))
            self.failures += 1
        self.retry_at = max(self.retry_at, now + after_s)
        # It may ask to be left alone for longer than anybody would wait.
        until, budget = (self.retry_at, options.busy_s) if busy else (now, options.retry_s)
        if fatal and until - since >= budget:
            self.given_up = True

    def measured(self, payload: int, seconds: float) -> None:
        """A lane of it received so many bytes of blocks in so many seconds."""
        if payload and seconds > 0:
            rate = payload / seconds
            self.lane_rate = rate if self.lane_rate is None else 0.5 * (self.lane_rate + rate)
