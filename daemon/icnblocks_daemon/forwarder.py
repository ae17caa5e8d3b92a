"""Drives the pending Interest table: makes room, asks upstreams, commits, and tells the waiters.

Lives on the event loop. Bytes never pass through here: an engine's thread verifies a block and
puts it into the store; this is told afterwards. Room in the budget is reserved before anything is
asked for, in the order of asking, so that what is under way counts against the budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from icnblocks.errors import (
    BusyError,
    ChangedError,
    CorruptError,
    IcnError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from icnblocks.limits import MAX_HOPS
from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.cache.content_store import Reservation
    from icnblocks.naming import Digest, Name
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.fib import Fib
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.pit import Fetch, Pit, Step
    from icnblocks_daemon.strategy import Strategy

_LOG = logging.getLogger(__name__)
_TICK_S: Final = 0.05
"""How often room is looked for while somebody waits for it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a requester said about where a block may be found.

    Attributes:
        name: the model it is part of, if known.
        manifest: the manifest it stands in, if known.
        hops: daemons that passed the Interest on.
        via: their ids.
    """

    name: Name | None = None
    manifest: Digest | None = None
    hops: int = 0
    via: frozenset[str] = frozenset()


class Waiter(Protocol):
    """Whoever waits for blocks. Called on the loop; must not call the forwarder back at once."""

    def landed(self, digest: Digest) -> None:
        """It is in the store now, and may be evicted as soon as this returns."""
        ...

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:
        """It cannot be had."""
        ...

    def __hash__(self) -> int: ...


class Carrier(Protocol):
    """What fetches from upstreams (upstreams.py); reports to the forwarder on the loop."""

    def begin(self, fetch: Fetch) -> None:
        """Ask the fetch's upstream for its block, and put it into the store."""
        ...

    def abandon(self, fetch: Fetch) -> bool:
        """Stop; False if it is too late and the forwarder will be told as if nothing were."""
        ...


@dataclass(slots=True)
class _Pending:
    fetch: Fetch
    since: float
    reservation: Reservation | None = None


class Forwarder:
    """Gets blocks that are not here.

    Args:
        holdings: where they go.
        fib: which upstreams may be asked.
        strategy: told how they do.
        pit: who waits for what.
        carrier: asks upstreams.
        metrics: counts.
        node_id: of this daemon; an Interest that came through it before is a loop.
        room_wait_s: how long a miss waits for room in the budget while nobody gets any.
        clock: seconds that never go backward.
    """

    def __init__(
        self,
        holdings: Holdings,
        fib: Fib,
        strategy: Strategy,
        pit: Pit,
        carrier: Carrier,
        metrics: Metrics,
        *,
        node_id: str,
        room_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._holdings = holdings
        self._fib = fib
        self._strategy = strategy
        self._pit = pit
        self._carrier = carrier
        self._metrics = metrics
        self._node_id = node_id
        self._room_wait_s = room_wait_s
        self._clock = clock
        self._pending: dict[int, _Pending] = {}  # by the fetch's serial number
        self._no_room: deque[_Pending] = deque()
        self._tick: asyncio.TimerHandle | None = None
        self._full_since: float | None = None
        self._room_at = clock()  # when somebody last got room

    @property
    def pending(self) -> int:
        """Blocks that somebody waits for."""
        return len(self._pit)

    @property
    def waiters(self) -> int:
        """Interests, over all pending blocks."""
        return self._pit.waiting()

    @property
    def waiting_for_room(self) -> int:
        """Pending blocks for which there is no room in the budget yet."""
        return len(self._no_room)

    @property
    def storage_failing(self) -> bool:
        """The last block that came could not be stored."""
        return self._full_since is not None

    def want(self, waiter: Waiter, want: Want, hint: Hint, *, again: str = "") -> None:
        """`waiter` wants a block; it is told when it landed or why it cannot be had.

        Args:
            waiter: told, perhaps before this returns.
            want: the block.
            hint: where it may be found.
            again: why it is fetched once more, if it was here before.
        """
        self._metrics.misses.inc()
        self._metrics.miss_bytes.inc(want.length)
        route = self._fib.route(hint.name)
        if route and (hint.hops >= MAX_HOPS or self._node_id in hint.via):
            waiter.refused(want.digest, Reason.LOOP, "the Interest went in a circle")
            return
        now = self._clock()
        step = self._pit.want(waiter, want.digest, want.length, route, now, hint=hint)
        if again and step.fetch is not None:
            self._metrics.refetched.labels(again).inc(want.length)
        self._do(step)

    def leave(self, waiter: Waiter, digest: Digest) -> None:
        """`waiter` waits no longer; when it was the last, the fetch is given up."""
        self._do(self._pit.leave(waiter, digest))

    def room_freed(self) -> None:
        """A lease was closed: perhaps there is room now."""
        if self._no_room:
            self._find_room()

    # --- what the carrier reports -------------------------------------------------------------

    def landed(self, fetch: Fetch) -> None:
        """The block is verified and in the store."""
        now = self._clock()
        pending = self._pending.pop(fetch.serial, None)
        if pending is None or pending.reservation is None:
            return
        self._holdings.content.commit(pending.reservation, now)
        self._strategy.succeeded(fetch.upstream, now)
        self._full_since = None
        step = self._pit.arrived(fetch)
        for waiter in step.ready:
            cast("Waiter", waiter).landed(fetch.digest)
        self._do(step)

    def refused(self, fetch: Fetch, error: IcnError) -> None:
        """The upstream did not give it."""
        self._release(fetch)
        now = self._clock()
        reason = reason_of(error)
        if reason in {Reason.UPSTREAM, Reason.CORRUPT}:
            self._strategy.failed(fetch.upstream, now)
        self._do(self._pit.refused(fetch, reason, str(error), now))

    def unstored(self, fetch: Fetch, error: IcnError) -> None:
        """It came, but the store would not take it."""
        self._release(fetch)
        if self._full_since is None:
            self._full_since = self._clock()
            _LOG.error("blocks cannot be stored: %s", error)
        self._do(self._pit.drop(fetch, Reason.NO_SPACE, str(error)))

    # --- inside -------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        if step.cancel is not None:
            self._give_up(step.cancel)
        for refusal in step.refused:
            waiter = cast("Waiter", refusal.waiter)
            waiter.refused(refusal.digest, refusal.reason, refusal.text)
        if step.fetch is not None:
            pending = self._pending[step.fetch.serial] = _Pending(step.fetch, self._clock())
            self._no_room.append(pending)
            self._find_room()

    def _find_room(self) -> None:
        """Reserve for those who wait for room, first come first served, and ask upstream."""
        now = self._clock()
        while self._no_room:
            pending = self._no_room[0]
            fetch = pending.fetch
            if fetch.serial not in self._pending:
                self._no_room.popleft()  # nobody waits for it any more
                continue
            room = self._holdings.content.reserve(fetch.digest, fetch.length, now)
            if room is None:
                # As long as others get room, the queue moves and patience begins anew.
                waited = now - max(pending.since, self._room_at)
                if waited < self._room_wait_s and self._can_ever_fit(fetch.length):
                    break
                self._no_room.popleft()
                del self._pending[fetch.serial]
                text = "no room in the cache's budget: all of it is pinned or being sent"
                self._do_later(self._pit.drop(fetch, Reason.NO_SPACE, text))
                continue
            self._no_room.popleft()
            pending.reservation = room
            self._room_at = now
            self._carrier.begin(fetch)
        if self._no_room and self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(_TICK_S, self._on_tick)

    def _do_later(self, step: Step) -> None:
        """Refusals have no consequences here, so this does not lead back to `_find_room`."""
        for refusal in step.refused:
            waiter = cast("Waiter", refusal.waiter)
            waiter.refused(refusal.digest, refusal.reason, refusal.text)

    def _on_tick(self) -> None:
        self._tick = None
        self._find_room()

    def _can_ever_fit(self, length: int) -> bool:
        content = self._holdings.content
        return content.capacity is None or content.store.footprint(length) <= content.capacity

    def _give_up(self, fetch: Fetch) -> None:
        pending = self._pending.get(fetch.serial)
        if pending is None:
            return
        if pending.reservation is None:
            del self._pending[fetch.serial]  # `_find_room` passes over it
        elif self._carrier.abandon(fetch):
            self._release(fetch)

    def _release(self, fetch: Fetch) -> None:
        pending = self._pending.pop(fetch.serial, None)
        if pending is not None and pending.reservation is not None:
            self._holdings.content.release(pending.reservation)

    def close(self) -> None:
        """Look for room no more."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None


def reason_of(error: IcnError) -> Reason:
    """How an upstream's failure is told to those who wait."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return Reason.UPSTREAM


_REASONS: Final[tuple[tuple[type[IcnError], Reason], ...]] = (
    (NotFoundError, Reason.NOT_FOUND),
    (CorruptError, Reason.CORRUPT),
    (ChangedError, Reason.CHANGED),
    (StorageError, Reason.NO_SPACE),
    (BusyError, Reason.BUSY),
    (RefusedError, Reason.REFUSED),
)
