"""Drives the pending Interest table: makes room, asks upstreams, commits, and tells the waiters.

Lives on the event loop. Bytes never pass through here: an engine's thread verifies a block and
puts it into the store; this is told afterwards. What is wanted takes its turn, by priority, age
and client, until its upstream has room for it and room in the budget is reserved, so that what is
under way counts against the budget. Whom to ask is decided then and not before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from icnblocks.limits import MAX_HOPS
from icnblocks.values import dataclass
from icnblocks.wire.bundle import HERE_ONLY
from icnblocks.wire.frames import Reason
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.landings import Landings
from icnblocks_daemon.reasons import FAILURES, failure_of, reason_of
from icnblocks_daemon.siblings import Siblings
from icnblocks_daemon.storage import Storage
from icnblocks_daemon.strategies import Failure
from icnblocks_daemon.turns import Turns
from icnblocks_daemon.under_way import UnderWay

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from icnblocks.cache.leases import Reservation
    from icnblocks.errors import IcnError
    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.interests import Carrier, Waiter
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.pit import Fetch, Pit, Step
    from icnblocks_daemon.strategies import Asked, Strategy
    from icnblocks_daemon.turns import Line

_TICK_S: Final = 0.05
"""How often it is looked for room while somebody waits for it, and for what is late."""
_FEW_LINES: Final = 16
"""More lines of who waits are not looked through for each block that comes: 400 take 3 ms."""
EVICTED: Final = "evicted"
"""Why a block is fetched again: it was here since it was wanted first, and is no more."""
UNSTORED: Final = "unstored"
"""Why a block is fetched again: it could not be stored, nor held in memory for who waited."""
HEDGE: Final = "hedge"
"""Why a block comes twice: two upstreams were asked for it."""


@dataclass(slots=True)
class _Pending:
    """A fetch. It waits for its turn until it has been asked for.

    Attributes:
        fetch: what, and of whom.
        since: when it was wanted.
        reservation: room for it, from when it is asked for.
        asked: what the strategy knows it by, from then on.
        hedged: another gave it; it was too late to give this one up.
        unwanted: nobody waits for it any more; it was too late to give it up.
    """

    fetch: Fetch
    since: float
    reservation: Reservation | None = None
    asked: Asked | None = None
    hedged: bool = False
    unwanted: bool = False


class Forwarder:
    """Gets blocks that are not here.

    Args:
        holdings: where they go.
        fib: which upstreams may be asked.
        strategy: says which one is, and is told how they do.
        pit: who waits for what.
        carrier: asks upstreams.
        metrics: counts.
        node_id: of this daemon; an Interest that came through it before is a loop.
        room_wait_s: how long a miss waits for room in the budget while nobody gets any.
        clock: seconds that never go backward.
        siblings: what other edges nearby hold; nobody's, if left out.
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
        siblings: Siblings | None = None,
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
        self.landings = Landings()
        self._pending: dict[int, _Pending] = {}  # by the fetch's serial number
        self._turns = Turns()
        self._starved_since: float | None = None  # no room in the budget for whose turn it is
        self._under_way = UnderWay(holdings.content)
        self._storage = Storage(holdings.overflow)
        self._tick: asyncio.TimerHandle | None = None
        self._going: asyncio.Handle | None = None
        self._siblings = Siblings() if siblings is None else siblings
        several = any(len(route) > 1 for route in (*fib.prefixes.values(), fib.upstreams))
        self._choice = several or bool(self._siblings.urls)

    @property
    def pending(self) -> int:
        """Blocks that somebody waits for."""
        return len(self._pit)

    @property
    def waiters(self) -> int:
        """Interests, over all pending blocks."""
        return self._pit.waiting()

    @property
    def waiting_for_turn(self) -> int:
        """Pending blocks that were not asked for yet."""
        return len(self._turns)

    @property
    def waiting_for_room(self) -> int:
        """Those of them that wait because there is no room in the budget."""
        return 0 if self._starved_since is None else len(self._turns)

    @property
    def storage_failing(self) -> bool:
        """Some block that came just now could not be stored: it is passed on from memory."""
        return self._storage.failing

    def want(
        self,
        waiter: Waiter,
        want: Want,
        hint: Hint,
        *,
        again: str = "",
        since: int | None = None,
        counted: bool = True,
    ) -> None:
        """`waiter` wants a block; it is told when it landed or why it cannot be had.

        Args:
            waiter: told, perhaps before this returns.
            want: the block.
            hint: where it may be found.
            again: why it is fetched once more, if it was here before.
            since: how many blocks had come, by `landings`, when it was wanted first.
            counted: False if no client asked for it, so that it is no miss.
        """
        if hint.hops == HERE_ONLY:
            waiter.refused(want.digest, Reason.NOT_FOUND, "the block is not here")
            return
        if counted:
            self._metrics.misses.inc()
            self._metrics.miss_bytes.inc(want.length)
        route = self._fib.route(hint.name)
        if route and (hint.hops >= MAX_HOPS or self._node_id in hint.via):
            self._metrics.loop("block", str(hint.name or want.digest))
            waiter.refused(want.digest, Reason.LOOP, "the Interest went in a circle")
            return
        if route:
            route = (*self._siblings.holders(hint.manifest, want.digest), *route)
        now = self._clock()
        step = self._pit.want(
            waiter, want.digest, want.length, route, now,
            hint=hint, scope=hint.name,
            path=(hint.hops, hint.via) if hint.hops or hint.via else None,
        )  # fmt: skip
        if not again and since is not None and self.landings.since(want.digest, since):
            again = EVICTED
        if again and step.fetch is not None:
            self._metrics.refetched.labels(again).inc(want.length)
        joined, first = step.joined, False
        if joined is not None and joined.serial in self._turns and not step.refused:
            first = self._stand_in_line(joined, waiter)
        self._do(step)
        if first:
            self._go_on_soon()

    def leave(self, waiter: Waiter, digest: Digest) -> None:
        """`waiter` waits no longer; when it was the last, the fetch is given up."""
        self._do(self._pit.leave(waiter, digest))

    def room_freed(self) -> None:
        """A lease was closed: perhaps there is room now."""
        if self._starved_since is not None:
            self._go_on_soon()

    def set_strategy(self, strategy: Strategy) -> None:
        """Go on with another strategy, which takes over what is known of the upstreams."""
        strategy.take_over(self._strategy)
        self._strategy = strategy
        self._pit.set_strategy(strategy)

    # --- what the carrier reports -------------------------------------------------------------

    def landed(self, fetch: Fetch) -> None:
        """The block is verified and in the store."""
        now = self._clock()
        pending = self._pending.pop(fetch.serial, None)
        if pending is None or pending.reservation is None or pending.asked is None:
            return
        self._holdings.content.commit(pending.reservation, now)
        self._strategy.delivered(pending.asked, now)
        if pending.hedged:
            self._metrics.refetched.labels(HEDGE).inc(fetch.length)
        self._storage.took(now)
        self.landings.add(fetch.digest)
        self._arrived(fetch, pending.asked)
        if self._turns:
            self._under_way.landed(fetch.digest, fetch.length, now)
        self._go_on_soon()

    def refused(self, fetch: Fetch, error: IcnError) -> None:
        """The upstream did not give it."""
        now = self._clock()
        reason = reason_of(error)
        asked = self._release(fetch)
        kind = FAILURES.get(reason)
        if asked is not None and kind is None and reason is not Reason.BUSY:
            self._strategy.lacked(asked, now)
        elif asked is not None:  # which says nothing of what it has; of BUSY told `faltered`
            self._strategy.let_go(asked, now)
        if kind is not None:
            self._strategy.failed(fetch.upstream, kind, now)
        self._do(self._pit.refused(fetch, reason, str(error), now))
        self._go_on_soon()

    def passed(self, fetch: Fetch, error: IcnError) -> None:
        """The store would not take it, but it is verified and in memory for those who wait."""
        asked = self._release(fetch)
        self._storage.failed(error, self._clock())
        self._metrics.passed_bytes.inc(fetch.length)
        if asked is not None:
            self._strategy.delivered(asked, self._clock())
        self._arrived(fetch, asked)
        self._go_on_soon()

    def unstored(self, fetch: Fetch, error: IcnError) -> None:
        """It came, and neither store nor memory would take it."""
        pending = self._pending.get(fetch.serial)
        asked = self._release(fetch)
        self._storage.failed(error, self._clock())
        if asked is not None:
            self._strategy.delivered(asked, self._clock())
        self._metrics.refetched.labels(UNSTORED).inc(fetch.length)
        if pending is None or pending.unwanted:
            pass  # who wants it now waits for another fetch of it
        elif not self._storage.can_ever_pass(fetch.length):
            self._do(self._pit.drop(fetch, Reason.NO_SPACE, str(error)))
        else:  # more was under way than memory has room for when the disk failed: once more
            self._take_turn(fetch)
        self._go_on_soon()

    def faltered(self, upstream: str, error: IcnError, wait_s: float) -> None:
        """An upstream failed just now; what it was asked for may still come."""
        kind = failure_of(error)
        least_s = wait_s if kind is Failure.BUSY else 0.0
        self._strategy.failed(upstream, kind, self._clock(), least_s=least_s)
        self._go_on_soon()

    # --- inside -------------------------------------------------------------------------------

    def _arrived(self, fetch: Fetch, asked: Asked | None) -> None:
        """Tell those who wait for it, and give up what else was asked for it."""
        step = self._pit.arrived(fetch)
        for number, waiter in enumerate(step.ready):
            if number:  # it was brought for the first; the others could have come a moment later
                self._holdings.touch(fetch.digest)
            cast("Waiter", waiter).landed(fetch.digest)
        self._do_later(step)  # those who gave it another length
        for other in step.cancel:
            self._give_up(other, hedged=True, gave=asked)

    def _do(self, step: Step) -> None:
        for fetch in step.cancel:
            self._give_up(fetch, hedged=False)
        self._do_later(step)
        first = step.fetch is not None and self._take_turn(step.fetch)
        if first or step.cancel:  # whoever is behind another waits as that one does
            self._go_on_soon()

    def _take_turn(self, fetch: Fetch) -> bool:
        """It is to be asked for; whether it is the first of a line."""
        self._pending[fetch.serial] = _Pending(fetch, self._clock())
        return self._stand_in_line(fetch)

    def _stand_in_line(self, fetch: Fetch, waiter: Waiter | None = None) -> bool:
        """For one who wants it, or all; whether it has become the first of a line."""
        now, first = self._clock(), False
        for route, said in self._pit.ways(fetch, waiter):
            hint = said if isinstance(said, Hint) else Hint()
            line = (route, hint.manifest, hint.client)
            first |= self._turns.add(fetch.serial, line, fetch.length, hint.priority, now)
        return first

    def _go_on_soon(self) -> None:
        """As `_go_on`; where there is much to look through, once for all that happens now."""
        if self._turns.lines <= _FEW_LINES:
            self._go_on()
        elif self._going is None:
            self._going = asyncio.get_running_loop().call_soon(self._go_on_now)

    def _go_on_now(self) -> None:
        self._going = None
        self._go_on()

    def _go_on(self) -> None:
        """Ask for what waits, as far as upstreams and the budget have room."""
        now = self._clock()
        passed: set[Line] = set()
        stalled = self._strategy.stalled(now)
        held: set[str] = set()  # upstreams of which enough is under way
        starved = False
        for serial, line in self._turns.heads(passed, now):
            pending = self._pending[serial]
            upstream = self._chosen(pending.fetch, line, now)
            if upstream is None:
                continue
            may_ask = self._strategy.may_ask(upstream, pending.fetch.length, now, line[1])
            if upstream in held or not may_ask:
                passed.add(line)
                continue
            fetch = pending.fetch = self._pit.assign(pending.fetch, upstream)
            of_others = sum(owed for url, owed in stalled.items() if url != fetch.upstream)
            if self._under_way.is_enough(fetch.length, of_others, now):
                starved = True
                if not stalled:
                    break
                held.add(fetch.upstream)
                passed.add(line)
                continue
            room = self._room_for(fetch.digest, fetch.length, now)
            if room is None:
                # As long as others get room, the queue moves and patience begins anew.
                if self._starved_since is None:
                    self._starved_since = now
                waited = now - max(pending.since, self._starved_since)
                if waited < self._room_wait_s and self._under_way.may_ever_come(fetch.length):
                    starved = True
                    break
                self._turns.remove(serial)
                del self._pending[serial]
                why = self._under_way.why_no_room(fetch.length)
                if self._storage.failing:
                    text = "no room: blocks cannot be stored, and memory is full of blocks"
                    why = Reason.NO_SPACE, text
                step = self._pit.drop(fetch, *why)
                for other in step.cancel:
                    self._give_up(other, hedged=False)
                self._do_later(step)
                continue
            self._turns.take(serial, line, now)
            self._starved_since = None
            self._ask(pending, room, now, line[1])
        if not starved:
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = now
        self._look_again()

    def _chosen(self, fetch: Fetch, line: Line, now: float) -> str | None:
        """Of the upstreams of a line where it stands, the one that is best for it now.

        None if nobody who waits for it may ask any of them: then it stands in other lines alone.
        """
        candidates = self._pit.candidates(fetch, line[0])
        if not candidates and self._turns.step_out(fetch.serial, line):
            return None
        route = self._nearest(candidates or (fetch.upstream,), now)
        behind = self._turns.waiting - fetch.length
        return self._strategy.choose(route, (), now, fetch.length, behind, line[1])

    def _nearest(self, route: Route, now: float) -> Route:
        """Siblings before upstreams, where one is among them that is well."""
        near = tuple(url for url in route if url in self._siblings.urls)
        well = any(not self._strategy.resting(url, now) for url in near)
        return near if well else route

    def _ask(self, pending: _Pending, room: Reservation, now: float, model: Hashable) -> None:
        fetch = pending.fetch
        pending.reservation = room
        pending.asked = self._strategy.asked(fetch.upstream, fetch.length, now, model)
        self._carrier.begin(fetch)

    def _look_again(self) -> None:
        """See to it that it is looked for room, and for what is late, in a while.

        An upstream may be asked for more when time has passed, though nothing came.
        """
        wanted = self._turns or (self._choice and self._pending)
        if wanted and self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        if self._choice:
            self._hedge()
        self._go_on()

    def _hedge(self) -> None:
        """Ask others as well for what the strategy says; what was asked for last, first."""
        now = self._clock()
        idle = not self._turns
        for pending in reversed(list(self._pending.values())):
            if pending.asked is None or pending.hedged:
                continue
            fetch = pending.fetch
            others = self._pit.others(fetch)
            if not others:
                continue
            upstream = self._strategy.second(pending.asked, others, now, idle=idle)
            apart = self._pit.others(fetch, apart=True)
            upstream = upstream or self._strategy.sooner(pending.asked, apart, now)
            if upstream is None:
                continue
            room = self._room_for(fetch.digest, self._pit.length(fetch, upstream), now)
            if room is None:
                continue
            second = _Pending(self._pit.hedge(fetch, upstream), now)
            self._pending[second.fetch.serial] = second
            self._metrics.hedges.labels(fetch.upstream).inc()
            self._ask(second, room, now, _model_of(second.fetch))

    def _room_for(self, digest: Digest, length: int, now: float) -> Reservation | None:
        content = self._holdings.content
        if not self._storage.may_come(length, content.reserved_bytes, now):
            return None
        return content.reserve(digest, length, now)

    def _do_later(self, step: Step) -> None:
        """Refusals have no consequences here, so this does not lead back to `_go_on`."""
        for refusal in step.refused:
            waiter = cast("Waiter", refusal.waiter)
            waiter.refused(refusal.digest, refusal.reason, refusal.text)

    def _give_up(self, fetch: Fetch, *, hedged: bool, gave: Asked | None = None) -> None:
        """Nobody needs it any more; where it was `hedged`, since another gave it."""
        pending = self._pending.get(fetch.serial)
        if pending is None:
            return
        if pending.asked is None:
            self._turns.remove(fetch.serial)
            del self._pending[fetch.serial]
            return
        now = self._clock()
        if hedged:
            if gave is not None and gave.at > pending.asked.at:  # else it was asked to help
                self._strategy.overtaken(pending.asked, now)
            self._carrier.overtaken(fetch)
        if self._carrier.abandon(fetch):
            self._release(fetch)
            self._strategy.let_go(pending.asked, now)
        else:
            pending.hedged, pending.unwanted = hedged, True

    def _release(self, fetch: Fetch) -> Asked | None:
        """It does not come: give its room back; what the strategy knows it by, if it was asked."""
        pending = self._pending.pop(fetch.serial, None)
        if pending is None:
            return None
        self._turns.remove(fetch.serial)
        if pending.reservation is not None:
            self._holdings.content.release(pending.reservation)
        return pending.asked

    def close(self) -> None:
        """Look for room no more."""
        for timer in (self._tick, self._going):
            if timer is not None:
                timer.cancel()
        self._tick = self._going = None


def _model_of(fetch: Fetch) -> Digest | None:
    return fetch.hint.manifest if isinstance(fetch.hint, Hint) else None
